"""Synchformer (Iashin et al., arXiv 2401.16423): a video encoder, an audio encoder, and a transformer that tells by how
much the sound is shifted. Names and shapes are those of ``synchformer_state_dict.pth``.

Read for them: v-iashin/Synchformer (model/sync_model.py and below), and the strict loading of hkchengrex/av-benchmark.

Shape legend: b clips, s segments, t video tokens in time (8 of 16 frames), p patches of a frame (196), f and u places
of audio patches in frequency (12) and time (6), n tokens, h heads, d width of a head, w width (768).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

SEGMENT_FRAMES = 16
TUBE_FRAMES = 2
AUDIO_PATCH, AUDIO_STRIDE = 16, 10


@dataclass(frozen=True, slots=True)
class SynchformerSize:
    """The published network's numbers; tests make smaller ones."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    image_px: int = 224
    patch_px: int = 16
    mels: int = 128
    spectrum_frames: int = 66
    sync_depth: int = 3
    sync_heads: int = 8
    segments: int = 14
    offsets: int = 21

    @property
    def patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Audio patches in frequency and in time."""
        across, along = ((size - AUDIO_PATCH) // AUDIO_STRIDE + 1 for size in (self.mels, self.spectrum_frames))
        return across, along


class Synchformer(nn.Module):
    """Logits of 21 offsets for 14 segments of 0.64 s, each of which begins in the middle of the one before."""

    def __init__(self, size: SynchformerSize = SynchformerSize()) -> None:
        super().__init__()
        self.size = size
        self.vfeat_extractor = VideoEncoder(size)
        self.afeat_extractor = AudioEncoder(size)
        self.vproj, self.aproj = nn.Linear(size.width, size.width), nn.Linear(size.width, size.width)
        self.transformer = SyncTransformer(size)

    def see(self, frames: Tensor) -> Tensor:
        """(s, t, w) from frames (s, 16, 3, height, width) in [-1, 1]."""
        return self.vfeat_extractor(rearrange(frames, "s frames c y x -> s c frames y x"))

    def hear(self, spectra: Tensor) -> Tensor:
        """(s, u, w) from normalised log-mel spectra (s, mels, 66)."""
        return self.afeat_extractor(spectra)

    def compare(self, seen: Tensor, heard: Tensor) -> Tensor:
        """Logits (b, 21) from (b, 14, t, w) and (b, 14, u, w)."""
        return self.transformer(self.vproj(seen).flatten(1, 2), self.aproj(heard).flatten(1, 2))


class VideoEncoder(nn.Module):
    """Motionformer with divided attention over space and time, its patches of each moment summarised."""

    def __init__(self, size: SynchformerSize) -> None:
        super().__init__()
        w, patch, self.moments = size.width, size.patch_px, SEGMENT_FRAMES // TUBE_FRAMES
        self.cls_token = nn.Parameter(torch.zeros(1, 1, w))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.patches, w))
        self.temp_embed = nn.Parameter(torch.zeros(1, self.moments, w))
        # In the file, but no part of the computation.
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, w, patch, patch)})
        tube = (TUBE_FRAMES, patch, patch)
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, w, tube, tube)})
        self.blocks = nn.ModuleList(DividedBlock(w, size.heads, self.moments) for _ in range(size.depth))
        self.norm = nn.LayerNorm(w, eps=1e-6)
        self.spatial_attn_agg = Summary(w, size.heads)

    def forward(self, frames: Tensor) -> Tensor:
        """(s, t, w) from (s, 3, 16, height, width)."""
        tokens = rearrange(self.patch_embed_3d["proj"](frames), "s w t y x -> s t (y x) w")
        tokens = tokens + self.pos_embed[:, None, 1:] + self.temp_embed[:, :, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        x = torch.cat((first, rearrange(tokens, "s t p w -> s (t p) w")), dim=1)
        for block in self.blocks:
            x = block(x)
        tokens = rearrange(self.norm(x[:, 1:]), "s (t p) w -> (s t) p w", t=self.moments)
        return rearrange(self.spatial_attn_agg(tokens), "(s t) w -> s t w", t=self.moments)


class DividedBlock(nn.Module):
    """Attention over time, then over space, then a feed-forward, each before a residual."""

    def __init__(self, width: int, heads: int, moments: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attn = DividedAttention(width, heads, moments, "(b t) h p d")
        self.timeattn = DividedAttention(width, heads, moments, "(b p) h t d")
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.timeattn(self.norm3(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class DividedAttention(nn.Module):
    """Attention of each patch over those of its place or of its moment and the first token; the first token attends to
    all.

    apart: how tokens (b h (t p) d) are put so that those that see each other are one sequence
    """

    def __init__(self, width: int, heads: int, moments: int, apart: str) -> None:
        super().__init__()
        self.heads, self.moments, self.apart = heads, moments, apart
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        whole = "b h (t p) d"
        first = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        queries, keys, values = (
            rearrange(one[:, :, 1:], f"{whole} -> {self.apart}", t=self.moments) for one in (q, k, v)
        )
        groups = len(queries) // len(q)
        shared = [repeat(one[:, :, :1], "b h n d -> (b groups) h n d", groups=groups) for one in (k, v)]
        rest = F.scaled_dot_product_attention(
            queries, torch.cat((shared[0], keys), dim=2), torch.cat((shared[1], values), dim=2)
        )
        rest = rearrange(rest, f"{self.apart} -> {whole}", b=len(q), t=self.moments)
        return self.proj(rearrange(torch.cat((first, rest), dim=2), "b h n d -> b n (h d)"))


class Summary(nn.TransformerEncoderLayer):
    """What a token put before a sequence holds after one layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(
            width, heads, 4 * width, dropout=0.0, activation=F.gelu, layer_norm_eps=1e-6, batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]  # no masks
        """(b, w) from (b, n, w)."""
        return super().forward(torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1))[:, 0]


class AudioEncoder(nn.Module):
    """The Audio Spectrogram Transformer (AST), its patches of each moment summarised."""

    def __init__(self, size: SynchformerSize) -> None:
        super().__init__()
        self.grid = size.audio_grid
        self.ast = nn.ModuleDict({
            "embeddings": AudioPatches(size.width, self.grid),
            "encoder": nn.ModuleDict({
                "layer": nn.ModuleList(AudioBlock(size.width, size.heads) for _ in range(size.depth))
            }),
            "layernorm": nn.LayerNorm(size.width, eps=1e-12),
        })  # fmt: skip
        self.freq_attn_agg = Summary(size.width, size.heads)

    def tokens(self, spectra: Tensor) -> Tensor:
        """(s, 2 + f u, w): the two leading tokens, and the patches with time innermost."""
        x = self.ast["embeddings"](spectra)
        for block in self.ast["encoder"]["layer"]:  # type: ignore[index]  # a ModuleDict
            x = block(x)
        return self.ast["layernorm"](x)

    def forward(self, spectra: Tensor) -> Tensor:
        """(s, u, w) from (s, mels, frames)."""
        across, along = self.grid
        patches = rearrange(self.tokens(spectra)[:, 2:], "s (f u) w -> (s u) f w", f=across, u=along)
        return rearrange(self.freq_attn_agg(patches), "(s u) w -> s u w", u=along)


class AudioPatches(nn.Module):
    """Overlapping patches of a spectrum after two tokens, each with its place."""

    def __init__(self, width: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 2 + grid[0] * grid[1], width))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(1, width, AUDIO_PATCH, AUDIO_STRIDE)})

    def forward(self, spectra: Tensor) -> Tensor:
        patches = rearrange(self.patch_embeddings["projection"](spectra[:, None]), "s w f u -> s (f u) w")
        first = [token.expand(len(patches), -1, -1) for token in (self.cls_token, self.distillation_token)]
        return torch.cat((*first, patches), dim=1) + self.position_embeddings


class AudioBlock(nn.Module):
    """A block of the Vision Transformer, under the names of transformers' ASTModel before its version 5."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layernorm_before, self.layernorm_after = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.attention = nn.ModuleDict({
            "attention": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
            "output": nn.ModuleDict({"dense": nn.Linear(width, width)}),
        })  # fmt: skip
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        inner, outer = self.attention["attention"], self.attention["output"]
        normed = self.layernorm_before(x)
        heads = [inner[name](normed) for name in ("query", "key", "value")]  # type: ignore[index]  # a ModuleDict
        x = x + outer["dense"](attended(*heads, self.heads))  # type: ignore[index]  # a ModuleDict
        return x + self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x))))


class SyncTransformer(nn.Module):
    """Offset token, video tokens, separator, audio tokens; logits from the first."""

    def __init__(self, size: SynchformerSize) -> None:
        super().__init__()
        w = size.width
        tokens = 2 + size.segments * (SEGMENT_FRAMES // TUBE_FRAMES + size.audio_grid[1])
        self.OFF_tok, self.MOD_tok = nn.Parameter(torch.zeros(1, 1, w)), nn.Parameter(torch.zeros(1, 1, w))
        self.vis_in_lnorm, self.aud_in_lnorm = nn.LayerNorm(w), nn.LayerNorm(w)
        self.pos_emb_cfg = nn.ParameterDict({"pos_emb": nn.Parameter(torch.zeros(1, tokens, w))})
        self.blocks = nn.ModuleList(SyncBlock(w, size.sync_heads) for _ in range(size.sync_depth))
        self.ln_f = nn.LayerNorm(w)
        self.off_head = nn.Linear(w, size.offsets)

    def forward(self, seen: Tensor, heard: Tensor) -> Tensor:
        """(b, 21) from (b, 14 t, w) and (b, 14 u, w)."""
        first, between = (token.expand(len(seen), -1, -1) for token in (self.OFF_tok, self.MOD_tok))
        x = torch.cat((first, self.vis_in_lnorm(seen), between, self.aud_in_lnorm(heard)), dim=1)
        x = x + self.pos_emb_cfg["pos_emb"]
        for block in self.blocks:
            x = block(x)
        return self.off_head(self.ln_f(x[:, 0]))


class SyncBlock(nn.Module):
    """A block of minGPT without its mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("key", "query", "value", "proj")})
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln1(x)
        heads = [self.attn[name](normed) for name in ("query", "key", "value")]
        x = x + self.attn["proj"](attended(*heads, self.heads))
        return x + self.mlp(self.ln2(x))


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(b, n, w) attention of every token over all, from (b, n, w) each."""
    q, k, v = (rearrange(one, "b n (h d) -> b h n d", h=heads) for one in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
