"""The nouns that every part of ovikit shares.

Shape legend
    b  batch         n  tokens of one stream      w  width of a tower
    c  channels      l  text tokens               s  noise levels of one clip (1, or 2 with a clean start)
    h  heads         d  head width                p  channel pairs of a head (d / 2)
    t, y, x          latent steps, rows, columns; ``*tyx``: of audio only t

Latents are ``(b, c, t, y, x)`` for video and ``(b, c, t)`` for audio, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Float32, Float64, Int, Int64, UInt8
from torch import Tensor

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, Modality] = ("video", "audio")
RotationUse = Literal["self", "fusion", "text", "words"]

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class AV(Generic[T]):
    """A pair with one value per modality; ``None`` where a modality takes no part."""

    video: T | None = None
    audio: T | None = None

    @classmethod
    def of(cls, values: Mapping[Modality, T]) -> AV[T]:
        """The pair with the values of a mapping; a modality that is not in it is ``None``."""
        return cls(values.get("video"), values.get("audio"))

    def get(self, modality: Modality) -> T | None:
        return self.video if modality == "video" else self.audio

    def __getitem__(self, modality: Modality) -> T:
        value = self.get(modality)
        if value is None:
            raise KeyError(f"this pair has no {modality}")
        return value

    def items(self) -> Iterator[tuple[Modality, T]]:
        """(modality, value) of the modalities that take part, video first."""
        for modality in MODALITIES:
            value = self.get(modality)
            if value is not None:
                yield modality, value

    def values(self) -> Iterator[T]:
        return (value for _, value in self.items())

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(modality for modality, _ in self.items())

    def map(self, function: Callable[[T], U]) -> AV[U]:
        """The pair of ``function(value)``; absent modalities stay absent."""
        return AV(  # not AV[U].of(...): torch.compile cannot trace a subscripted class
            video=None if self.video is None else function(self.video),
            audio=None if self.audio is None else function(self.audio),
        )

    def zip(self, other: AV[U], function: Callable[[T, U], V]) -> AV[V]:
        """The pair of ``function(mine, other's)`` for the modalities of this pair; KeyError if other lacks one."""
        return AV(
            video=None if self.video is None else function(self.video, other["video"]),
            audio=None if self.audio is None else function(self.audio, other["audio"]),
        )


@dataclass(frozen=True)
class TokenGrid:
    """Where each token of a stream lies, in index, in seconds and in space.

    The grid is regular in space; in time each step has its own bounds, because causal codecs give the
    first step fewer frames. Hashable, so that rotations can be cached by grid. Tokens are ordered (t, y, x).

    shape:   (t, y, x) steps, rows, columns; audio has one row and one column
    edges_s: t pairs (start, end) in seconds
    """

    modality: Modality
    shape: tuple[int, int, int]
    edges_s: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.edges_s) != self.shape[0]:
            raise ValueError(f"grid of {self.shape[0]} steps was given the times of {len(self.edges_s)}")

    @classmethod
    def uniform(
        cls, modality: Modality, shape: tuple[int, int, int], step_s: float, first_s: float | None = None
    ) -> TokenGrid:
        """A grid whose steps last ``step_s`` seconds each, the first one ``first_s`` (default: the same)."""
        first = step_s if first_s is None else first_s
        starts = [0.0] + [first + step_s * i for i in range(shape[0] - 1)]
        ends = [first + step_s * i for i in range(shape[0])]
        return cls(modality, shape, tuple(zip(starts, ends, strict=True)))

    def pooled(self, patch: tuple[int, int, int]) -> TokenGrid:
        """The grid of patches of (t, y, x) cells. ValueError when the patch does not divide the grid."""
        if any(size % step for size, step in zip(self.shape, patch, strict=True)):
            raise ValueError(f"a {self.modality} grid of {self.shape} cells cannot be cut into patches of {patch}")
        t, y, x = (size // step for size, step in zip(self.shape, patch, strict=True))
        edges = tuple((self.edges_s[i * patch[0]][0], self.edges_s[(i + 1) * patch[0] - 1][1]) for i in range(t))
        return TokenGrid(self.modality, (t, y, x), edges)

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def tokens_per_step(self) -> int:
        return self.shape[1] * self.shape[2]

    @cached_property
    def index(self) -> Int64[Tensor, "n 3"]:
        """Step, row and column of each token."""
        axes = torch.meshgrid(*(torch.arange(size) for size in self.shape), indexing="ij")
        return torch.stack([axis.reshape(-1) for axis in axes], dim=-1)

    @cached_property
    def seconds(self) -> Float64[Tensor, "n 2"]:
        """When each token starts and ends."""
        return torch.tensor(self.edges_s, dtype=torch.float64)[self.index[:, 0]]

    @cached_property
    def space(self) -> Float64[Tensor, "n 2"]:
        """Centre of each token, (y, x) in [0, 1]."""
        size = torch.tensor(self.shape[1:], dtype=torch.float64)
        return (self.index[:, 1:].to(torch.float64) + 0.5) / size


@dataclass(frozen=True, slots=True)
class Text:
    """What a conditioner makes of a batch of prompts.

    tokens:  zero past each prompt's length
    lengths: the true length of each prompt
    """

    tokens: Float[Tensor, "b l c"]
    lengths: Int[Tensor, " b"]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Text:
        return Text(self.tokens.to(device=device, dtype=dtype), self.lengths.to(device))


@dataclass(frozen=True, slots=True)
class KeyValue:
    """Keys and values of one attention."""

    key: Float[Tensor, "b l h d"]
    value: Float[Tensor, "b l h d"]


@dataclass(frozen=True, slots=True)
class Context:
    """The text as one tower sees it.

    lengths: of the tokens that attention may read; None: all of them
    cached:  keys and values per layer, computed once per clip; empty while training
    """

    tokens: Float[Tensor, "b l w"]
    lengths: Int[Tensor, " b"] | None = None
    cached: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True)
class NoiseConditioning:
    """What a tower derives from the noise level, once per distinct level of a clip, never per token.

    embedding:  read by the head
    projection: k rows, read by the blocks
    spans:      s token counts: consecutive tokens that share a level
    """

    embedding: Float[Tensor, "b s w"]
    projection: Float[Tensor, "b s k w"]
    spans: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines to turn channel pairs by."""

    cos: Float[Tensor, "n p"]
    sin: Float[Tensor, "n p"]


@dataclass(frozen=True, slots=True)
class Rotated:
    """Which attentions turn by the positions, beside the one over a stream's own tokens.

    fusion: the one over the other modality
    text:   the one over the text. Its words count as steps that last the whole clip together, and tokens turn by their
            time alone
    """

    fusion: bool = True
    text: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """What one tower carries through the layers.

    noise:     the tower's noise conditioning
    context:   text of the present layer: its tokens, or keys and values where they are cached
    rotations: by use, ``self`` and ``fusion``; with ``text`` (of the tokens) and ``words`` (of the text's) where the
               attention over the text turns too
    lengths:   valid tokens of each item; None: all
    layout:    what the fusion wants to know of where the tokens of both streams lie (``networks.protocols.LaysOut``)
    skip_self: this layer's self-attention gives back its values (a perturbation that some guidances ask for)
    """

    tokens: Float[Tensor, "b n w"]
    noise: NoiseConditioning
    context: Float[Tensor, "b l w"] | KeyValue
    rotations: Mapping[RotationUse, Rotation]
    lengths: Int[Tensor, " b"] | None = None
    context_lengths: Int[Tensor, " b"] | None = None
    skip_self: bool = False
    layout: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def with_tokens(self, tokens: Float[Tensor, "b n w"]) -> Stream:
        return replace(self, tokens=tokens)

    def part(self, start: int, stop: int) -> Stream:
        """The stream of the batch's items from ``start`` up to ``stop``."""

        def cut(value: Tensor) -> Tensor:
            return value[start:stop]

        noise = NoiseConditioning(cut(self.noise.embedding), cut(self.noise.projection), self.noise.spans)
        context = self.context
        return replace(
            self,
            tokens=cut(self.tokens),
            noise=noise,
            context=KeyValue(cut(context.key), cut(context.value)) if isinstance(context, KeyValue) else cut(context),
            lengths=None if self.lengths is None else cut(self.lengths),
            context_lengths=None if self.context_lengths is None else cut(self.context_lengths),
        )


@dataclass(frozen=True, slots=True)
class Perturbation:
    """A change to one network evaluation, carried as data and handled in JointModel's loop.

    skip_layers: layers left out altogether
    cut_fusion:  the towers run alone
    skip_self:   layers whose self-attention gives back its values
    """

    skip_layers: tuple[int, ...] = ()
    cut_fusion: bool = False
    skip_self: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The form of the clips of a recipe."""

    duration_s: float
    height_px: int
    width_px: int
    frame_rate_hz: float
    sample_rate_hz: int

    @property
    def frames(self) -> int:
        return round(self.duration_s * self.frame_rate_hz)

    @property
    def samples(self) -> int:
        return round(self.duration_s * self.sample_rate_hz)


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip in memory.

    video: RGB
    audio: mono, in [-1, 1]
    truth: what is known of the clip beyond its samples (event times, colours, ...), plain JSON values
    """

    name: str
    prompt: str
    video: UInt8[Tensor, "frames height width 3"] | None
    audio: Float32[Tensor, " samples"] | None
    frame_rate_hz: float
    sample_rate_hz: int
    truth: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the clip has, video first."""
        return AV(self.video, self.audio).modalities

    def signal(self, modality: Modality) -> Float32[Tensor, "*samples"]:
        """What a codec of that modality encodes: pixels in [-1, 1], or samples. KeyError where the clip has none."""
        samples = AV(self.video, self.audio)[modality].float()
        return samples / 127.5 - 1 if modality == "video" else samples

    @staticmethod
    def pixels(signal: Float[Tensor, "frames height width 3"]) -> UInt8[Tensor, "frames height width 3"]:
        """Pixels of what a codec decodes, the inverse of ``signal``, on the CPU; values beyond [-1, 1] are cut off."""
        pixels = torch.empty(signal.shape, dtype=torch.uint8)
        # A frame at a time: copies of a whole clip of ten seconds would take several times its 2.7 GB.
        for into, frame in zip(pixels, signal, strict=True):
            into.copy_(frame.clamp(-1, 1).add_(1).mul_(127.5).round_())
        return pixels
