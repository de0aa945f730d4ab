"""Timing and style apart: two residual attentions for each direction, between text and feed-forward network.

    x = x + o_local(attend in a window around x's time, rotated) + o_global(attend over all tokens, not rotated)

The first knows only what happens at its own time; the second does not know when anything happens.

Shape legend: b batch, n m tokens of the two streams, w width.
Source: Harmony (arXiv 2511.21579), in our own words and code.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ovikit.networks.exchange import OTHER, PARALLEL, Exchange, refuse_spread
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.rotary import rotate
from ovikit.types import AV, Stream, TokenGrid
from ovikit_fusions.meeting import meet_before_feed_forward
from ovikit_fusions.reading import EPS, InnerHeads, Reader
from ovikit_fusions.windows import window_layout, windowed


class GlobalLocalReader(nn.Module):
    """One direction: a stream after it has read the other one, near its own time and as a whole."""

    def __init__(
        self, width: int, other_width: int, inner: InnerHeads, attend: Attend, init_scale: float, precision: Precision
    ) -> None:
        super().__init__()
        self.attend, self.precision = attend, precision
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.other_norm = nn.LayerNorm(other_width, eps=EPS)
        self.near = Reader(width, other_width, inner, init_scale, precision)
        self.whole = Reader(width, other_width, inner, init_scale, precision)

    def forward(self, mine: Stream, other: Stream) -> Stream:
        own = self.precision.narrow(self.precision.layer_norm(self.norm, mine.tokens))
        seen = self.precision.narrow(self.precision.layer_norm(self.other_norm, other.tokens))
        near = self.near
        query = rotate(near.query(own), mine.rotations["fusion"])
        key = rotate(near.key(near.k(seen)), other.rotations["fusion"])
        timing = windowed(self.attend, query, key, near.split(near.v(seen)), other.lengths, mine.layout)
        style = self.whole(own, seen, self.attend, other.lengths)
        return mine.with_tokens(mine.tokens + near.output(timing) + style)


class GlobalLocalLayer(nn.Module):
    """The fusion of one layer. ValueError where tokens are spread over processes."""

    def __init__(
        self,
        width: AV[int],
        inner: InnerHeads,
        attend: Attend,
        exchange: Exchange = PARALLEL,
        window: int = 1,
        init_scale: float = 1.0,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        refuse_spread(attend, "global-local", "cuts the streams into windows")
        self.attend, self.exchange, self.window, self.head_width = attend, exchange, window, inner.head_width
        self.reads = nn.ModuleDict(
            {
                m: GlobalLocalReader(width[m], width[OTHER[m]], inner, attend, init_scale, precision)
                for m in exchange.readers
            }
        )

    def layout(self, grids: AV[TokenGrid]) -> AV[Mapping[str, Tensor]]:
        return AV(
            video=window_layout(grids["video"], grids["audio"], self.window),
            audio=window_layout(grids["audio"], grids["video"], self.window),
        )

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        return meet_before_feed_forward(
            blocks, streams, self.attend, self.exchange, lambda m, mine, other: self.reads[m](mine, other)
        )
