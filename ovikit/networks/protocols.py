"""What the networks ask of each other. Implement the methods; there is nothing to inherit from but ``nn.Module``.

Shape legend: b batch, n tokens, w width, h heads, d head width, l text tokens, c channels, s noise levels of a clip,
m tokens that a query attends to, t y x latent steps, rows, columns (``*tyx``: of audio only t).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from ovikit.types import AV, Clip, ClipSpec, KeyValue, Modality, NoiseConditioning, Stream, Text, TokenGrid

Attend = Callable[
    [Float[Tensor, "b n h d"], Float[Tensor, "b m h d"], Float[Tensor, "b m h d"], Int[Tensor, " b"] | None],
    Float[Tensor, "b n h d"],
]
"""``attend(q, k, v, lengths)``: the attended values; lengths of the valid keys, or None."""


class Heads(NamedTuple):
    """Query, key and value of one attention, normalised and not yet rotated."""

    query: Float[Tensor, "b n h d"]
    key: Float[Tensor, "b m h d"]
    value: Float[Tensor, "b m h d"]


@runtime_checkable
class Block(Protocol):
    """One layer of one tower, in stages, so that a fusion can interleave two of them.

    ``mod`` is whatever ``modulation`` returned: only the block looks inside.
    """

    def modulation(self, noise: NoiseConditioning) -> Any: ...
    def self_heads(self, x: Float[Tensor, "b n w"], mod: Any) -> Heads: ...
    def self_merge(
        self, x: Float[Tensor, "b n w"], attended: Float[Tensor, "b n h d"], mod: Any
    ) -> Float[Tensor, "b n w"]: ...
    def context_kv(self, context: Float[Tensor, "b l w"]) -> KeyValue: ...
    def context_heads(self, x: Float[Tensor, "b n w"], context: Float[Tensor, "b l w"] | KeyValue) -> Heads: ...
    def context_merge(
        self, x: Float[Tensor, "b n w"], attended: Float[Tensor, "b n h d"]
    ) -> Float[Tensor, "b n w"]: ...
    def feed_forward(self, x: Float[Tensor, "b n w"], mod: Any) -> Float[Tensor, "b n w"]: ...


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

    def embed(self, latents: Float[Tensor, "b c *tyx"]) -> Float[Tensor, "b n w"]:
        """Tokens of latents ``(b, c, t, y, x)`` or ``(b, c, t)``."""
        ...

    def noise(self, levels: Float[Tensor, "b s"], spans: tuple[int, ...]) -> NoiseConditioning:
        """Conditioning of noise levels in [0, 1] that hold for ``spans`` consecutive tokens."""
        ...

    def context(self, text: Text) -> Float[Tensor, "b l w"]:
        """Context tokens of a text: the same ones whatever the text was padded to, and as many for every text."""
        ...

    def head(
        self, tokens: Float[Tensor, "b n w"], noise: NoiseConditioning, grid: TokenGrid
    ) -> Float[Tensor, "b c *tyx"]:
        """Velocity in the layout of the latents, from the tokens of ``grid``."""
        ...


@runtime_checkable
class FusionLayer(Protocol):
    """The fusion of one layer: an ``nn.Module`` whose ``forward`` runs both blocks and lets them meet.

    A fusion component builds one FusionLayer for each layer that both towers have, from
    ``(depth, width: AV, heads: AV, attend, precision)``; None where the blocks of a layer run alone. It is called only
    when both streams are there; a lone stream runs ``stages.run_block``.
    """

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]: ...


@runtime_checkable
class OwnHeads(Protocol):
    """A FusionLayer whose queries and keys have a head width of their own: the rotations for ``fusion`` are made for
    it. Those of the others are made for each tower's heads."""

    head_width: int


@runtime_checkable
class LaysOut(Protocol):
    """A FusionLayer that has to know where tokens lie in time, beyond their rotations."""

    def layout(self, grids: AV[TokenGrid]) -> AV[Mapping[str, Tensor]]:
        """What each stream is to carry as ``Stream.layout``: tensors that depend on nothing but the two grids, such as
        the bounds of windows. Made once per clip shape, for all layers by the first of them; moved to the device."""
        ...


@runtime_checkable
class Positions(Protocol):
    """A positional scheme."""

    def angles(
        self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]
    ) -> Float64[Tensor, "n {head_width}//2"]:
        """By how much each channel pair of each token turns; zero where it does not."""
        ...


@runtime_checkable
class Partition(Protocol):
    """How the tokens of one clip are shared out between processes."""

    def spread(self, stream: Stream) -> Stream:
        """This process's share of a stream: its tokens, with the rotations and the noise spans cut alike."""
        ...

    def gather(self, tokens: Float[Tensor, "b m w"], total: int) -> Float[Tensor, "b {total} w"]:
        """All ``total`` tokens again, from this process's share."""
        ...


Visit = Callable[[int], AbstractContextManager[object]]
"""``visit(i)``: a context in which the weights of layer ``i`` are where the computation is."""

Progress = Callable[[int, int], None]
"""``progress(done, total)``, now and then in long work."""


@runtime_checkable
class Weighted(Protocol):
    """A codec or conditioner with weights of its own. Whoever drives it says when they are read and where they lie:
    building it reads nothing."""

    def load(self, device: torch.device | str, progress: Progress | None = None) -> None:
        """Reads the weights the first time, and puts them on ``device``. UserError for a missing or damaged file.

        progress: told of the bytes that were read, where that takes long enough to be watched
        """
        ...

    def unload(self) -> None:
        """Frees the weights; a later ``load`` reads them again."""
        ...

    def weight_bytes(self) -> int:
        """What the weights take, from the architecture alone."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A codec or conditioner whose files can be looked at long before they are needed."""

    def check(self) -> None:
        """UserError for a file that is missing, damaged or of another model; no tensor is read."""
        ...


@runtime_checkable
class Decoding(Protocol):
    """A codec that knows how much memory it decodes in."""

    def decode_bytes(self) -> int:
        """The most that ``decode`` of one clip of the recipe's form takes beyond the weights: latents, everything in
        between and the samples."""
        ...


@runtime_checkable
class Licensed(Protocol):
    """A codec or conditioner whose weights may not be used for everything."""

    def terms(self) -> str:
        """What their users must be told, in a line."""
        ...


@runtime_checkable
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

    def for_clip(self, clip: ClipSpec) -> Codec:
        """The same codec for clips of another form; weights are shared."""
        ...

    def encode(self, samples: Float32[Tensor, "b ..."]) -> Float[Tensor, "b c *tyx"]:
        """Latents of whole clips; of video also those of the first frame alone (frames == 1)."""
        ...

    def decode(self, latents: Float[Tensor, "b c *tyx"], progress: Progress | None = None) -> Float32[Tensor, "b ..."]:
        """Exactly the recipe's frames or samples."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the latents of a clip, or what is decoded from them, would change: name, version and
        options."""
        ...


class Prepared(NamedTuple):
    """A prompt as it will be encoded, and what its author should be told of it."""

    text: str
    notes: tuple[str, ...] = ()


@runtime_checkable
class Conditioner(Protocol):
    """Prompt to context tokens."""

    width: int

    def prepare(self, prompt: str) -> Prepared:
        """The prompt in the form that the model was trained with. Needs no weights."""
        ...

    def encode(self, prompts: Sequence[str]) -> Text: ...
    def fingerprint(self) -> str: ...


@runtime_checkable
class Splitting(Protocol):
    """A conditioner that may give each tower a text of its own."""

    def split(self, prompt: str) -> AV[str]:
        """What each tower reads of a prompt, for both of them; the empty text where it says nothing for one. Where all
        towers read all of it, the prompt twice. ``encode`` gets these texts. Needs no weights."""
        ...


class ClipSource(Protocol):
    """A dataset of clips, random access, the same clip for the same index every time."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Clip: ...
    def fingerprint(self) -> str: ...
