"""Small honest parts for contracts to work with: a transformer tower, a positional scheme, grids, inputs.

Shape legend: b batch, n tokens, w width, h heads, d head width, l text tokens, c channels, s noise levels of a clip,
t y x latent steps, rows, columns (``*tyx``: of audio only t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.modulation import RMSNorm, gated, modulated
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Attend, Heads, Positions
from ovikit.types import AV, KeyValue, Modality, NoiseConditioning, Text, TokenGrid

FLOAT64 = Precision(torch.float64)
TEXT_WIDTH, TEXT_LENGTH = 10, 5
_MOST_WORDS = 8
CHANNELS = AV(3, 2)
GRIDS = AV(
    TokenGrid.uniform("video", (4, 2, 2), 0.25),  # 16 tokens and 10, of one second
    TokenGrid.uniform("audio", (10, 1, 1), 0.1),
)
_EPS = 1e-6


class Level(NamedTuple):
    """Shift, scale and gate of one stage, and the spans of tokens they hold for."""

    shift: Float[Tensor, "b s w"]
    scale: Float[Tensor, "b s w"]
    gate: Float[Tensor, "b s w"]
    spans: tuple[int, ...]


class ReferenceBlock(nn.Module):
    """One layer: attention over the stream, attention over the text, feed-forward; before each a norm."""

    def __init__(self, width: int, heads: int, precision: Precision) -> None:
        super().__init__()
        self.heads, self.precision = heads, precision
        self.norm = nn.LayerNorm(width, eps=_EPS, elementwise_affine=False)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm_query, self.norm_key = RMSNorm(width, _EPS, precision), RMSNorm(width, _EPS, precision)
        self.text_query, self.text_key, self.text_value, self.text_out = (nn.Linear(width, width) for _ in range(4))
        self.text_norm_key = RMSNorm(width, _EPS, precision)
        self.wider, self.narrower = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.levels = nn.Parameter(torch.empty(6, width))

    def init_weights(self, generator: Generator) -> None:
        nn.init.normal_(self.levels, std=0.1, generator=generator)

    def modulation(self, noise: NoiseConditioning) -> tuple[Level, Level]:
        rows = (self.precision.wide(self.levels) + noise.projection).unbind(2)
        return Level(*rows[:3], noise.spans), Level(*rows[3:], noise.spans)

    def _split(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n h d"]:
        return rearrange(x, "b n (h d) -> b n h d", h=self.heads)

    def _read(self, x: Float[Tensor, "b n w"], level: Level) -> Float[Tensor, "b n w"]:
        normed = self.precision.layer_norm(self.norm, x)
        return self.precision.narrow(modulated(normed, level.shift, level.scale, level.spans, self.precision))

    def self_heads(self, x: Float[Tensor, "b n w"], mod: tuple[Level, Level]) -> Heads:
        x = self._read(x, mod[0])
        query, key = self.norm_query(self.query(x)), self.norm_key(self.key(x))
        return Heads(self._split(query), self._split(key), self._split(self.value(x)))

    def self_merge(
        self, x: Float[Tensor, "b n w"], attended: Float[Tensor, "b n h d"], mod: tuple[Level, Level]
    ) -> Float[Tensor, "b n w"]:
        update = self.out(rearrange(attended, "b n h d -> b n (h d)"))
        return gated(x, update, mod[0].gate, mod[0].spans, self.precision)

    def context_kv(self, context: Float[Tensor, "b l w"]) -> KeyValue:
        key = self.text_norm_key(self.text_key(context))
        return KeyValue(self._split(key), self._split(self.text_value(context)))

    def context_heads(self, x: Float[Tensor, "b n w"], context: Float[Tensor, "b l w"] | KeyValue) -> Heads:
        kv = context if isinstance(context, KeyValue) else self.context_kv(context)
        normed = self.precision.narrow(self.precision.layer_norm(self.norm, x))
        return Heads(self._split(self.text_query(normed)), kv.key, kv.value)

    def context_merge(self, x: Float[Tensor, "b n w"], attended: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n w"]:
        return x + self.text_out(rearrange(attended, "b n h d -> b n (h d)"))

    def feed_forward(self, x: Float[Tensor, "b n w"], mod: tuple[Level, Level]) -> Float[Tensor, "b n w"]:
        update = self.narrower(F.gelu(self.wider(self._read(x, mod[1]))))
        return gated(x, update, mod[1].gate, mod[1].spans, self.precision)


class ReferenceTower(nn.Module):
    """A tower that embeds every latent cell by itself, so that what lies past an item's length is seen by no other."""

    def __init__(
        self, modality: Modality, channels: int, text_width: int, *, width: int, heads: int, depth: int,
        precision: Precision,
    ) -> None:  # fmt: skip
        super().__init__()
        self.modality: Modality = modality
        self.width, self.heads, self.depth, self.precision = width, heads, depth, precision
        self.enter = nn.Linear(channels, width)
        self.words = nn.Linear(text_width, width)
        self.time = nn.Linear(8, width)
        self.rows = nn.Linear(width, 6 * width)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.leave = nn.Linear(width, channels)

    def block(self, index: int) -> ReferenceBlock:
        return ReferenceBlock(self.width, self.heads, self.precision)

    def grid(self, latents: TokenGrid) -> TokenGrid:
        return latents

    def embed(self, latents: Float[Tensor, "b c *tyx"]) -> Float[Tensor, "b n w"]:
        cells = rearrange(latents, "b c ... -> b (...) c")
        return self.precision.wide(self.enter(self.precision.narrow(cells)))

    def noise(self, levels: Float[Tensor, "b s"], spans: tuple[int, ...]) -> NoiseConditioning:
        waves = levels[..., None] * (math.pi * torch.arange(1, 5, device=levels.device))
        told = torch.cat((waves.sin(), waves.cos()), dim=-1)
        wide = torch.float32 if self.precision.mixed else self.time.weight.dtype
        embedding = self.precision.linear(self.time, told.to(wide))
        rows = self.precision.linear(self.rows, F.silu(embedding))
        return NoiseConditioning(embedding, rearrange(rows, "b s (k w) -> b s k w", k=6), spans)

    def context(self, text: Text) -> Float[Tensor, "b l w"]:
        tokens = text.tokens[:, :_MOST_WORDS]
        return self.words(F.pad(tokens, (0, 0, 0, _MOST_WORDS - tokens.shape[1])))

    def head(
        self, tokens: Float[Tensor, "b n w"], noise: NoiseConditioning, grid: TokenGrid
    ) -> Float[Tensor, "b c *tyx"]:
        still = torch.zeros_like(noise.embedding)
        told = modulated(tokens, noise.embedding, still, noise.spans, self.precision)
        out = self.precision.linear(self.leave, self.precision.layer_norm(self.norm, told))
        shape = grid.shape if self.modality == "video" else grid.shape[:1]
        return rearrange(out, "b n c -> b c n").unflatten(2, shape)


class ReferencePositions:
    """Half of a head's pairs turn with the middle of a token's time, a quarter each with its row and its column."""

    def angles(
        self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]
    ) -> Float64[Tensor, "n {head_width}//2"]:
        pairs = head_width // 2
        places = (grid.seconds.mean(dim=1) * 4, grid.index[:, 1].double(), grid.index[:, 2].double())
        space = pairs // 4
        turned = [
            place[:, None] * 20.0 ** (-torch.arange(count, dtype=torch.float64) / max(count, 1))
            for place, count in zip(places, (pairs - 2 * space, space, space), strict=True)
        ]
        return torch.cat(turned, dim=1)


@dataclass(frozen=True)
class Inputs:
    """What a joint model is given, beside grids."""

    latents: AV[Tensor]
    sigma: AV[Tensor]
    text: AV[Text]

    def item(self, i: int) -> Inputs:
        """The i-th item of the batch by itself."""

        def cut(value: Tensor) -> Tensor:
            return value[i : i + 1]

        return Inputs(
            self.latents.map(cut), self.sigma.map(cut), self.text.map(lambda t: Text(cut(t.tokens), cut(t.lengths)))
        )

    def with_latents(self, latents: AV[Tensor]) -> Inputs:
        return Inputs(latents, self.sigma, self.text)

    def of(self, modalities: Sequence[Modality]) -> Inputs:
        """The part of some modalities."""

        def kept(pair: AV[Any]) -> AV[Any]:
            return AV.of({m: value for m, value in pair.items() if m in modalities})

        return Inputs(kept(self.latents), kept(self.sigma), kept(self.text))

    def to(self, device: str, dtype: torch.dtype, words: torch.dtype | None = None) -> Inputs:
        """The same elsewhere, in a format; ``words``: that of the text, where it is another one."""
        return Inputs(
            self.latents.map(lambda x: x.to(device, dtype)),
            self.sigma.map(lambda x: x.to(device, torch.promote_types(dtype, torch.float32))),
            self.text.map(lambda t: t.to(device, words or dtype)),
        )


def drawn(*shape: int, seed: int) -> Tensor:
    """Standard normal float64 numbers, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(grids: AV[TokenGrid] = GRIDS, channels: AV[int] = CHANNELS, batch: int = 2) -> Inputs:
    """Random latents of both modalities, noise levels that differ by item and modality, and a text."""
    latents = AV(
        drawn(batch, channels["video"], *grids["video"].shape, seed=1),
        drawn(batch, channels["audio"], grids["audio"].shape[0], seed=2),
    )
    sigma = torch.linspace(0.2, 0.9, batch, dtype=torch.float64)
    text = Text(drawn(batch, TEXT_LENGTH, TEXT_WIDTH, seed=3), torch.full((batch,), TEXT_LENGTH))
    return Inputs(latents, AV(sigma, 1 - sigma / 2), AV(text, text))


def towers(width: AV[int], heads: AV[int], depth: AV[int], precision: Precision) -> AV[ReferenceTower]:
    """Reference towers of both modalities."""

    def tower(modality: Modality) -> ReferenceTower:
        return ReferenceTower(
            modality, CHANNELS[modality], TEXT_WIDTH,
            width=width[modality], heads=heads[modality], depth=depth[modality], precision=precision,
        )  # fmt: skip

    return AV(tower("video"), tower("audio"))


def assembled(
    parts: AV[Any],
    fusion: Sequence[nn.Module | None],
    positions: Positions | None = None,
    attend: Attend = sdpa,
    precision: Precision = FLOAT64,
) -> JointModel:
    """The joint model of towers on the meta device, with weights that are drawn as those of a run are."""
    # Drawn in float64 whatever the format, so that one seed is one model in all of them.
    with torch.device("meta"):
        model = JointModel(parts, fusion, positions or ReferencePositions(), attend).double()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.fill_(torch.nan)  # whatever is not set by init_weights shows
    initialise(model, torch.Generator().manual_seed(0))
    return model.to(precision.dtype)


def stirred(model: nn.Module, seed: int = 7) -> None:
    """Adds random numbers to every weight: also to those that training starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.2)


def velocity(
    model: JointModel, given: Inputs, grids: AV[TokenGrid] = GRIDS, cache: bool = False, **options: Any
) -> AV[Tensor]:
    """What the model makes of inputs; ``options`` are those of ``JointModel.forward``."""
    return model(given.latents, given.sigma, model.embed_text(given.text, cache), grids, **options)


def apart(first: AV[Tensor], second: AV[Tensor]) -> float:
    """The largest difference between two pairs; infinite where either is not finite."""
    found = [float((first[m].detach().double() - second[m].detach().double()).abs().max()) for m in first.modalities]
    return max(math.inf if math.isnan(one) else one for one in found)


def gradients(model: nn.Module, out: AV[Tensor]) -> dict[str, Tensor]:
    """The gradient of the sum of squares by the weight's name; weights without one are left out."""
    model.zero_grad()
    torch.stack([value.square().sum() for value in out.values()]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
