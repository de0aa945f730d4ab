"""Residual attentions that read in time, each direction in its own way, between text and feed-forward network.

Audio to video: the tokens of a video step read the audio tokens of a window around it.
Video to audio: an audio token reads the picture at its own time: the tokens of the two nearest video steps,
interpolated linearly. Its keys lie where it lies, so nothing turns: a rotation by one angle would cancel.

The towers may differ in width, heads and depth.

Shape legend: b batch, n m tokens of the two streams, w width, i inner width, g audio tokens, s video tokens per step.
Source: UniAVGen (arXiv 2511.03334), in our own words and code.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ovikit.networks.exchange import OTHER, PARALLEL, Exchange, refuse_spread
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.rotary import rotate
from ovikit.types import AV, Stream, TokenGrid
from ovikit_fusions.meeting import meet_before_feed_forward
from ovikit_fusions.reading import EPS, InnerHeads, Reader
from ovikit_fusions.windows import interpolated, neighbour_layout, neighbours_read, window_layout, windowed


class TimedReader(nn.Module):
    """One direction: a stream after it has read the other one, where both are normed first."""

    def __init__(
        self, width: int, other_width: int, inner: InnerHeads, attend: Attend, init_scale: float, precision: Precision
    ) -> None:
        super().__init__()
        self.attend, self.precision = attend, precision
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.other_norm = nn.LayerNorm(other_width, eps=EPS)
        self.reader = Reader(width, other_width, inner, init_scale, precision)

    def forward(self, mine: Stream, other: Stream) -> Stream:
        query = self.reader.query(self.precision.narrow(self.precision.layer_norm(self.norm, mine.tokens)))
        seen = self.precision.narrow(self.precision.layer_norm(self.other_norm, other.tokens))
        return mine.with_tokens(mine.tokens + self.reader.output(self.read(query, seen, mine, other)))

    def read(
        self, query: Float[Tensor, "b n h d"], seen: Float[Tensor, "b m w"], mine: Stream, other: Stream
    ) -> Float[Tensor, "b n h d"]:
        """What the queries attend to: here, the other stream's tokens in a window around each step."""
        reader = self.reader
        key = rotate(reader.key(reader.k(seen)), other.rotations["fusion"])
        query = rotate(query, mine.rotations["fusion"])
        return windowed(self.attend, query, key, reader.split(reader.v(seen)), other.lengths, mine.layout)


class NeighbourReader(TimedReader):
    """Audio tokens, each of which reads the picture at its own time."""

    def read(
        self, query: Float[Tensor, "b n h d"], seen: Float[Tensor, "b m w"], mine: Stream, other: Stream
    ) -> Float[Tensor, "b n h d"]:
        # Projections are linear: of interpolated tokens they are what interpolation makes of far fewer of them.
        reader = self.reader
        key, value = (interpolated(project(seen), other.lengths, mine.layout) for project in (reader.k, reader.v))
        return neighbours_read(self.attend, query, reader.key(key), reader.split(value), other.lengths, mine.layout)


class AsymmetricWindowLayer(nn.Module):
    """The fusion of one layer. ValueError where tokens are spread over processes."""

    def __init__(
        self,
        width: AV[int],
        inner: InnerHeads,
        attend: Attend,
        exchange: Exchange = PARALLEL,
        window: int = 1,
        init_scale: float = 0.0,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        refuse_spread(attend, "asymmetric-window", "cuts the streams into windows")
        self.attend, self.exchange, self.window, self.head_width = attend, exchange, window, inner.head_width
        kinds = {"video": TimedReader, "audio": NeighbourReader}
        self.reads = nn.ModuleDict(
            {m: kinds[m](width[m], width[OTHER[m]], inner, attend, init_scale, precision) for m in exchange.readers}
        )

    def layout(self, grids: AV[TokenGrid]) -> AV[Mapping[str, Tensor]]:
        return AV(
            video=window_layout(grids["video"], grids["audio"], self.window),
            audio=neighbour_layout(grids["audio"], grids["video"]),
        )

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        return meet_before_feed_forward(
            blocks, streams, self.attend, self.exchange, lambda m, mine, other: self.reads[m](mine, other)
        )
