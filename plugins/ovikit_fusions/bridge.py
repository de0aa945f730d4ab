"""A bridge: residual attentions between the towers before chosen layers.

    x = x + strength * o(attend(rotate(q(norm(x))), rotate(k(norm(other))), v(norm(other))))

``strength`` is one trained number for each direction and layer. The towers may differ in width, heads and depth.

Shape legend: b batch, n m tokens of the two streams, w width.
Source: MOVA (arXiv 2602.08794), in our own words and code.
"""

from __future__ import annotations

import torch
from torch import Generator, nn

from ovikit.networks.exchange import OTHER, PARALLEL, Exchange
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.stages import run_block
from ovikit.types import AV, Stream
from ovikit_fusions.reading import EPS, InnerHeads, Reader


class BridgeReader(nn.Module):
    """One direction: a stream after it has read the other one."""

    def __init__(
        self,
        width: int,
        other_width: int,
        inner: InnerHeads,
        attend: Attend,
        init_scale: float,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.attend, self.precision = attend, precision
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.other_norm = nn.LayerNorm(other_width, eps=EPS)
        self.reader = Reader(width, other_width, inner, init_scale, precision)
        self.strength = nn.Parameter(torch.empty(1))

    def init_weights(self, generator: Generator) -> None:
        nn.init.ones_(self.strength)

    def forward(self, mine: Stream, other: Stream) -> Stream:
        update = self.reader(
            self.precision.narrow(self.precision.layer_norm(self.norm, mine.tokens)),
            self.precision.narrow(self.precision.layer_norm(self.other_norm, other.tokens)),
            self.attend,
            other.lengths,
            (mine.rotations["fusion"], other.rotations["fusion"]),
        )
        return mine.with_tokens(self.precision.scaled(mine.tokens, update, self.precision.wide(self.strength)))


class BridgeLayer(nn.Module):
    """The fusion of one layer."""

    def __init__(
        self,
        width: AV[int],
        inner: InnerHeads,
        attend: Attend,
        exchange: Exchange = PARALLEL,
        init_scale: float = 1.0,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        self.attend, self.exchange, self.head_width = attend, exchange, inner.head_width
        self.reads = nn.ModuleDict(
            {m: BridgeReader(width[m], width[OTHER[m]], inner, attend, init_scale, precision) for m in exchange.readers}
        )

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        met = self.exchange(streams, lambda m, mine, other: self.reads[m](mine, other))
        return AV.of({m: run_block(blocks[m], s, self.attend) for m, s in met.items()})
