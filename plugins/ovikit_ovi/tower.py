"""The Wan-style tower of Ovi: patch embedding, blocks in stages, head.

Shape legend
    b batch    n tokens    w width    h heads    d head width    l text tokens    c channels
    s noise levels of a clip (1, or 2 with a clean start)    t y x latent steps, rows, columns; *tyx: of audio only t

Source: the released Ovi code at 5b69b25, from Wan2.2. Leaf names are Wan's own where they do not mislead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ovikit.networks.modulation import RMSNorm, gated, modulated
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Heads
from ovikit.types import KeyValue, Modality, NoiseConditioning, Text, TokenGrid

TIMESTEPS = 1000  # the scale of the timesteps that the time embedding was trained with


class Affine(NamedTuple):
    """Shift, scale and gate of one stage, and the spans of tokens they hold for."""

    shift: Float[Tensor, "b s w"]
    scale: Float[Tensor, "b s w"]
    gate: Float[Tensor, "b s w"]
    spans: tuple[int, ...]


class Modulation(NamedTuple):
    """What the noise level does to a block."""

    attention: Affine
    feed_forward: Affine


class AttentionProjections(nn.Module):
    """Projections and norms of one attention, over the own stream or over the text; the attending is injected."""

    def __init__(self, width: int, heads: int, eps: float, precision: Precision) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)
        self.norm_q = RMSNorm(width, eps, precision)
        self.norm_k = RMSNorm(width, eps, precision)

    def split(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n h d"]:
        return rearrange(x, "b n (h d) -> b n h d", h=self.heads)

    def query(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n h d"]:
        return self.split(self.norm_q(self.q(x)))

    def key_value(self, x: Float[Tensor, "b l w"]) -> KeyValue:
        return KeyValue(self.split(self.norm_k(self.k(x))), self.split(self.v(x)))

    def output(self, attended: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n w"]:
        return self.o(rearrange(attended, "b n h d -> b n (h d)"))


class OviBlock(nn.Module):
    """One layer of one tower, in the stages of ``ovikit.networks.protocols.Block``."""

    def __init__(self, width: int, feed_forward_width: int, heads: int, eps: float, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.norm1 = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.self_attn = AttentionProjections(width, heads, eps, precision)
        self.context_norm = nn.LayerNorm(width, eps=eps)
        self.context_attn = AttentionProjections(width, heads, eps, precision)
        self.norm2 = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(
            nn.Linear(width, feed_forward_width), nn.GELU(approximate="tanh"), nn.Linear(feed_forward_width, width)
        )
        self.modulation_bias = nn.Parameter(torch.empty(1, 6, width))

    def init_weights(self, generator: Generator) -> None:
        nn.init.normal_(self.modulation_bias, std=self.modulation_bias.shape[-1] ** -0.5, generator=generator)

    def modulation(self, noise: NoiseConditioning) -> Modulation:
        rows = (self.precision.wide(self.modulation_bias[:, None]) + noise.projection).unbind(2)
        return Modulation(Affine(*rows[:3], noise.spans), Affine(*rows[3:], noise.spans))

    def _modulated(self, norm: nn.LayerNorm, x: Float[Tensor, "b n w"], affine: Affine) -> Float[Tensor, "b n w"]:
        """What a stage's matrix products read of the residual stream."""
        normed = self.precision.layer_norm(norm, x)
        return self.precision.narrow(modulated(normed, affine.shift, affine.scale, affine.spans, self.precision))

    def self_heads(self, x: Float[Tensor, "b n w"], mod: Modulation) -> Heads:
        x = self._modulated(self.norm1, x, mod.attention)
        kv = self.self_attn.key_value(x)
        return Heads(self.self_attn.query(x), kv.key, kv.value)

    def self_merge(
        self, x: Float[Tensor, "b n w"], attended: Float[Tensor, "b n h d"], mod: Modulation
    ) -> Float[Tensor, "b n w"]:
        return gated(x, self.self_attn.output(attended), mod.attention.gate, mod.attention.spans, self.precision)

    def context_kv(self, context: Float[Tensor, "b l w"]) -> KeyValue:
        return self.context_attn.key_value(context)

    def context_heads(self, x: Float[Tensor, "b n w"], context: Float[Tensor, "b l w"] | KeyValue) -> Heads:
        kv = context if isinstance(context, KeyValue) else self.context_kv(context)
        normed = self.precision.narrow(self.precision.layer_norm(self.context_norm, x))
        return Heads(self.context_attn.query(normed), kv.key, kv.value)

    def context_merge(self, x: Float[Tensor, "b n w"], attended: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n w"]:
        return x + self.context_attn.output(attended)

    def feed_forward(self, x: Float[Tensor, "b n w"], mod: Modulation) -> Float[Tensor, "b n w"]:
        affine = mod.feed_forward
        return gated(x, self.ffn(self._modulated(self.norm2, x, affine)), affine.gate, affine.spans, self.precision)


class Head(nn.Module):
    """Tokens to velocity in the layout of the latents: a modulated norm, a linear layer, and the patches laid out."""

    def __init__(
        self,
        modality: Modality,
        channels: int,
        width: int,
        patch: tuple[int, int, int],
        eps: float,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.modality, self.patch, self.precision = modality, patch, precision
        self.norm = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.head = nn.Linear(width, channels * math.prod(patch))
        self.modulation = nn.Parameter(torch.empty(1, 2, width))

    def init_weights(self, generator: Generator) -> None:
        nn.init.normal_(self.modulation, std=self.modulation.shape[-1] ** -0.5, generator=generator)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Float[Tensor, "b n w"], noise: NoiseConditioning, grid: TokenGrid
    ) -> Float[Tensor, "b c *tyx"]:
        rows = self.precision.wide(self.modulation[:, None]) + noise.embedding[:, :, None]
        normed = self.precision.layer_norm(self.norm, x)
        out = self.precision.linear(self.head, modulated(normed, *rows.unbind(2), noise.spans, self.precision))
        if self.modality == "audio":
            return rearrange(out, "b t c -> b c t")
        t, y, x_ = grid.shape
        pt, py, px = self.patch
        return rearrange(out, "b (t y x) (pt py px c) -> b c (t pt) (y py) (x px)", t=t, y=y, x=x_, pt=pt, py=py, px=px)


class GatedConv(nn.Module):
    """The ConvMLP of the audio tower's patch embedding: w2(silu(w1 x) * w3 x)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        hidden = 256 * math.ceil(int(2 * 4 * width / 3) / 256)
        self.w1 = nn.Conv1d(width, hidden, kernel, padding=kernel // 2, bias=False)
        self.w2 = nn.Conv1d(hidden, width, kernel, padding=kernel // 2, bias=False)
        self.w3 = nn.Conv1d(width, hidden, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Float[Tensor, "b w t"]) -> Float[Tensor, "b w t"]:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def audio_embedding(channels: int, width: int, kernel: int = 7) -> nn.Sequential:
    """The audio tower's patch embedding (b, c, t) -> (b, w, t): convolutions that see 13 steps, no patching."""
    return nn.Sequential(nn.Conv1d(channels, width, kernel, padding=kernel // 2), nn.SiLU(), GatedConv(width, kernel))


def timestep_embedding(levels: Float[Tensor, "*any"], width: int) -> Float64[Tensor, "*any {width}"]:
    """Cosines, then sines, of the timestep (1000 x level) at falling frequencies."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float64, device=levels.device)
    angles = (levels.to(torch.float64) * TIMESTEPS)[..., None] * 10000.0 ** (-steps / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class OviTower(nn.Module):
    """One tower without its blocks, which live in the pair layers; see ``ovikit.networks.protocols.Backbone``."""

    def __init__(
        self,
        modality: Modality,
        channels: int,
        text_width: int,
        *,
        width: int,
        feed_forward_width: int,
        heads: int,
        depth: int,
        text_length: int,
        frequency_width: int = 256,
        patch: tuple[int, int, int] = (1, 2, 2),
        eps: float = 1e-6,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        self.modality: Modality = modality
        self.precision = precision
        self.channels, self.width, self.heads, self.depth = channels, width, heads, depth
        self.feed_forward_width, self.text_length = feed_forward_width, text_length
        self.frequency_width, self.eps = frequency_width, eps
        self.patch = patch if modality == "video" else (1, 1, 1)
        if modality == "video":
            self.patch_embedding: nn.Module = nn.Conv3d(channels, width, patch, stride=patch)
        else:
            self.patch_embedding = audio_embedding(channels, width)
        self.text_embedding = nn.Sequential(
            nn.Linear(text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.time_embedding = nn.Sequential(nn.Linear(frequency_width, width), nn.SiLU(), nn.Linear(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.head = Head(modality, channels, width, self.patch, eps, precision)  # called as Backbone.head

    def init_weights(self, generator: Generator) -> None:
        for layer in (*self.text_embedding, *self.time_embedding):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02, generator=generator)

    def block(self, index: int) -> OviBlock:
        return OviBlock(self.width, self.feed_forward_width, self.heads, self.eps, self.precision)

    def grid(self, latents: TokenGrid) -> TokenGrid:
        return latents.pooled(self.patch)

    def embed(self, latents: Float[Tensor, "b c *tyx"]) -> Float[Tensor, "b n w"]:
        embedded = self.patch_embedding(self.precision.narrow(latents))
        # contiguous like every layer's output, so that one compiled graph serves the first layer too
        return self.precision.wide(rearrange(embedded, "b w ... -> b (...) w").contiguous())

    def noise(self, levels: Float[Tensor, "b s"], spans: tuple[int, ...]) -> NoiseConditioning:
        dtype = torch.float32 if self.precision.mixed else self.time_projection[1].weight.dtype
        sinusoid = timestep_embedding(levels, self.frequency_width).to(dtype)
        first, second, last = self.time_embedding[0], self.time_embedding[2], self.time_projection[1]
        embedding = self.precision.linear(second, F.silu(self.precision.linear(first, sinusoid)))
        projection = rearrange(self.precision.linear(last, F.silu(embedding)), "b s (k w) -> b s k w", k=6)
        return NoiseConditioning(embedding, projection, spans)

    def context(self, text: Text) -> Float[Tensor, "b {self.text_length} w"]:
        """Context tokens. Rows past a prompt's end are zero before the MLP and are attended to,
        as in the released code: the model reads its own response to zero there."""
        tokens = text.tokens[:, : self.text_length]
        padded = F.pad(tokens, (0, 0, 0, self.text_length - tokens.shape[1]))
        return self.text_embedding(padded)
