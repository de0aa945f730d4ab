"""What the networks ask of each other. Implement the methods; there is nothing to inherit from but ``nn.Module``.

Shape legend: b batch, n tokens, w width, h heads, d head width, l text tokens, c channels, s noise levels of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ovikit.types import AV, Clip, KeyValue, Modality, NoiseConditioning, Stream, Text, TokenGrid

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""``attend(q, k, v, lengths)``: q ``(b, n, h, d)``, k and v ``(b, m, h, d)``, lengths ``(b,)`` of the valid keys
or None -> ``(b, n, h, d)``."""


class Heads(NamedTuple):
    """Query, key and value of one attention, each ``(b, n, h, d)``, normalised and not yet rotated."""

    query: Tensor
    key: Tensor
    value: Tensor


@runtime_checkable
class Block(Protocol):
    """One layer of one tower, in stages, so that a fusion can interleave two of them.

    ``mod`` is whatever ``modulation`` returned: only the block looks inside.
    """

    def modulation(self, noise: NoiseConditioning) -> Any: ...
    def self_heads(self, x: Tensor, mod: Any) -> Heads: ...
    def self_merge(self, x: Tensor, attended: Tensor, mod: Any) -> Tensor: ...
    def context_kv(self, context: Tensor) -> KeyValue: ...
    def context_heads(self, x: Tensor, context: Tensor | KeyValue) -> Heads: ...
    def context_merge(self, x: Tensor, attended: Tensor) -> Tensor: ...
    def feed_forward(self, x: Tensor, mod: Any) -> Tensor: ...


@runtime_checkable
class Backbone(Protocol):
    """One tower without its layers: what turns latents into tokens and back, and the maker of its blocks.

    The blocks live in the PairLayers of a JointModel (layers.{i}.{modality}), so that whatever wraps a layer
    wraps both towers and their fusion.
    """

    modality: Modality
    depth: int
    width: int
    heads: int

    def block(self, index: int) -> nn.Module:
        """A new Block for layer ``index``."""
        ...

    def grid(self, latents: TokenGrid) -> TokenGrid:
        """The grid of the tokens that ``embed`` makes of latents with this grid."""
        ...

    def embed(self, latents: Tensor) -> Tensor:
        """Tokens ``(b, n, w)`` of latents ``(b, c, t, y, x)`` or ``(b, c, t)``."""
        ...

    def noise(self, levels: Tensor, spans: tuple[int, ...]) -> NoiseConditioning:
        """Conditioning of noise levels ``(b, s)`` in [0, 1] that hold for ``spans`` consecutive tokens."""
        ...

    def context(self, text: Text) -> Tensor:
        """Context tokens ``(b, l, w)`` of a text."""
        ...

    def head(self, tokens: Tensor, noise: NoiseConditioning, grid: TokenGrid) -> Tensor:
        """Velocity in the layout of the latents, from the tokens of ``grid``."""
        ...


@runtime_checkable
class FusionLayer(Protocol):
    """The fusion of one layer: an ``nn.Module`` whose ``forward`` runs both blocks and lets them meet.

    A fusion component builds one FusionLayer per layer from ``(depth, width: AV, heads: AV, attend)``.
    It is called only when both streams are there; a lone stream runs ``stages.run_block``.
    """

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]: ...


class Positions(Protocol):
    """A positional scheme."""

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        """(n, d / 2) float64: by how much each channel pair of each token turns; zero where it does not."""
        ...


class Codec(Protocol):
    """Pixels or a waveform to latents and back, with the grid of the latents. Deterministic.

    Video is float32 ``(b, frames, height, width, 3)`` in [-1, 1]; audio is float32 ``(b, samples)`` in [-1, 1].
    """

    modality: Modality
    channels: int

    def shape(self) -> tuple[int, ...]:
        """Shape of the latents of one clip of the recipe's form, without the batch: (c, t, y, x) or (c, t)."""
        ...

    def grid(self) -> TokenGrid:
        """The grid of the latents of one clip of the recipe's form."""
        ...

    def encode(self, samples: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...

    def fingerprint(self) -> str:
        """Changes whenever the latents of a clip would change: name, version and options."""
        ...


class Conditioner(Protocol):
    """Prompt to context tokens."""

    width: int

    def encode(self, prompts: Sequence[str]) -> Text: ...
    def fingerprint(self) -> str: ...


class ClipSource(Protocol):
    """A dataset of clips, random access, the same clip for the same index every time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Clip: ...
    def fingerprint(self) -> str: ...
