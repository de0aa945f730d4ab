"""ImageBind, huge (Girdhar et al., arXiv 2305.05665): its encoders of pictures and of sounds, with the names of the
published file, whose encoders of text, depth, heat and movement are left out.

Read for it: imagebind/models of facebookresearch/ImageBind, as the package imagebind-packaged 0.1.2 has it.

Shape legend: b inputs, n tokens, m mels, t frames of a spectrum, y and x pixels, w width of a trunk, e width of the
embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 2
"""Of a picture's pair, 2 s apart."""
AUDIO_PATCH, AUDIO_STRIDE = 16, 10
MOST_SCALE = 100.0
PARTS = ("modality_preprocessors", "modality_trunks", "modality_heads", "modality_postprocessors")
LEFT_OUT = ("text", "depth", "thermal", "imu")


@dataclass(frozen=True, slots=True)
class TrunkSize:
    """A transformer's numbers."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True, slots=True)
class ImageBindSize:
    """The published network's numbers; tests make smaller ones."""

    vision: TrunkSize = TrunkSize(1280, 32, 16)
    audio: TrunkSize = TrunkSize(768, 12, 12)
    embedding: int = 1024
    image_px: int = 224
    patch_px: int = 14
    mels: int = 128
    spectrum_frames: int = 204

    @property
    def image_patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2

    @property
    def audio_patches(self) -> int:
        across, along = ((size - AUDIO_PATCH) // AUDIO_STRIDE + 1 for size in (self.mels, self.spectrum_frames))
        return across * along


class ImageBind(nn.Module):
    """Embeddings of pairs of frames, of length 1, and of spectra, of a length that the file says, in one space."""

    def __init__(self, size: ImageBindSize = ImageBindSize()) -> None:
        super().__init__()
        self.size = size
        vision, audio = size.vision, size.audio
        tube = (FRAMES, size.patch_px, size.patch_px)
        seen = nn.ModuleDict({
            # the published one repeats single pictures first
            "proj": nn.Sequential(nn.Identity(), nn.Conv3d(3, vision.width, tube, tube, bias=False)),
        })  # fmt: skip
        heard = nn.ModuleDict({
            "proj": nn.Conv2d(1, audio.width, AUDIO_PATCH, AUDIO_STRIDE, bias=False),
            "norm_layer": nn.LayerNorm(audio.width),
        })  # fmt: skip
        self.modality_preprocessors = nn.ModuleDict({
            "vision": _Patches(seen, size.image_patches, vision.width),
            "audio": _Patches(heard, size.audio_patches, audio.width),
        })  # fmt: skip
        self.modality_trunks = nn.ModuleDict({
            "vision": _Trunk(vision, nn.LayerNorm(vision.width, eps=1e-6), extra_key=False),
            "audio": _Trunk(audio, nn.Identity(), extra_key=True),
        })  # fmt: skip
        self.modality_heads = nn.ModuleDict({
            "vision": _Head(vision.width, size.embedding), "audio": _Head(audio.width, size.embedding),
        })  # fmt: skip
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.Sequential(nn.Identity(), _Scale())})

    def see(self, pairs: Tensor) -> Tensor:
        """(b, e) of length 1 from normalised pairs of frames (b, 3, 2, y, x)."""
        return F.normalize(self._embedded("vision", pairs), dim=-1)

    def hear(self, spectra: Tensor) -> Tensor:
        """(b, e) from normalised log-mel spectra (b, m, t)."""
        return self.modality_postprocessors["audio"](F.normalize(self._embedded("audio", spectra[:, None]), dim=-1))

    def _embedded(self, modality: str, x: Tensor) -> Tensor:
        tokens = self.modality_trunks[modality](self.modality_preprocessors[modality](x))
        return self.modality_heads[modality](tokens)


class _Patches(nn.Module):
    """(b, 1 + n, w): a token of its own, then the patches, each with its place."""

    def __init__(self, stem: nn.ModuleDict, count: int, width: int) -> None:
        super().__init__()
        self.rgbt_stem = stem
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": nn.Parameter(torch.zeros(1, 1 + count, width))})

    def forward(self, x: Tensor) -> Tensor:
        patches = self.rgbt_stem["proj"](x).flatten(2).transpose(1, 2)
        if "norm_layer" in self.rgbt_stem:
            patches = self.rgbt_stem["norm_layer"](patches)
        first = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat((first, patches), dim=1) + self.pos_embedding_helper["pos_embed"]


class _Trunk(nn.Module):
    """A transformer over tokens (b, n, w).

    extra_key: in each block tokens also attend to one more, which is learned
    """

    def __init__(self, size: TrunkSize, before: nn.Module, extra_key: bool) -> None:
        super().__init__()
        self.pre_transformer_layer = nn.Sequential(before)
        self.blocks = nn.Sequential(*(_Block(size, extra_key) for _ in range(size.depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.pre_transformer_layer(x))


class _Block(nn.Module):
    def __init__(self, size: TrunkSize, extra_key: bool) -> None:
        super().__init__()
        width = size.width
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(size, extra_key)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm_1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm_2(x))))


class _Attention(nn.Module):
    """Attention of every token over all, with the names of PyTorch's own."""

    def __init__(self, size: TrunkSize, extra_key: bool) -> None:
        super().__init__()
        width, self._heads = size.width, size.heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.bias_k = nn.Parameter(torch.zeros(1, 1, width)) if extra_key else None
        self.bias_v = nn.Parameter(torch.zeros(1, 1, width)) if extra_key else None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        if self.bias_k is not None and self.bias_v is not None:
            key = torch.cat((key, self.bias_k.expand(len(x), -1, -1)), dim=1)
            value = torch.cat((value, self.bias_v.expand(len(x), -1, -1)), dim=1)
        query, key, value = (
            one.unflatten(-1, (self._heads, -1)).transpose(1, 2) for one in (query, key, value)
        )  # fmt: skip
        found = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(found.transpose(1, 2).flatten(2))


class _Head(nn.Sequential):
    """(b, e) of the first of tokens (b, n, w)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__(nn.LayerNorm(width, eps=1e-6), nn.Identity(), nn.Linear(width, embedding, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, 0])


class _Scale(nn.Module):
    """What an embedding is multiplied by, at most 100."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_logit_scale", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_buffer("log_logit_scale").exp().clamp_max(MOST_SCALE) * x


def seen_and_heard(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the published file without those of the other modalities."""
    others = tuple(f"{part}.{modality}." for part in PARTS for modality in LEFT_OUT)
    return {name: value for name, value in state.items() if not name.startswith(others)}


def without_values() -> ImageBind:
    """The network on the meta device, for weights that are mapped from a file: there are never two copies of them."""
    with torch.device("meta"):
        return ImageBind()
