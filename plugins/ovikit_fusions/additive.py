"""The other modality as if it were a position: resampled in time, projected, and added before the block.

    x = x + W resample(pool(norm(other))) + b

Video is pooled over space, so each step is one vector; a video step is given the audio of its own time, and an audio
token the picture of its own. No attention: who meets whom follows from time alone.

Shape legend: b batch, n m tokens of the two streams, t steps, s tokens per step, w width.
Source: CMC-PE (arXiv 2409.17550), in our own words and code.
"""

from __future__ import annotations

from collections.abc import Mapping

from einops import rearrange
from torch import Generator, Tensor, nn

from ovikit.networks.exchange import OTHER, PARALLEL, Exchange, refuse_spread
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.stages import run_block
from ovikit.types import AV, Stream, TokenGrid
from ovikit_fusions.reading import EPS
from ovikit_fusions.windows import resampled, resampling_layout


class AddedSteps(nn.Module):
    """One direction: a stream with what the other one is at the time of each of its steps."""

    def __init__(self, width: int, other_width: int, init_scale: float, precision: Precision) -> None:
        super().__init__()
        self.init_scale, self.precision = init_scale, precision
        self.other_norm = nn.LayerNorm(other_width, eps=EPS)
        self.project = nn.Linear(other_width, width)

    def init_weights(self, generator: Generator) -> None:
        nn.init.xavier_uniform_(self.project.weight, gain=self.init_scale, generator=generator)
        nn.init.zeros_(self.project.bias)

    def forward(self, mine: Stream, other: Stream) -> Stream:
        # Resampled first: there are fewer steps than tokens, and weights that sum to one commute with the projection.
        steps = resampled(self.precision.layer_norm(self.other_norm, other.tokens), other.lengths, mine.layout)
        added = self.project(self.precision.narrow(steps))
        tokens = rearrange(mine.tokens, "b (t s) w -> b t s w", t=added.shape[1]) + added[:, :, None]
        return mine.with_tokens(rearrange(tokens, "b t s w -> b (t s) w"))


class AdditiveLayer(nn.Module):
    """The fusion of one layer. ValueError where tokens are spread over processes."""

    def __init__(
        self,
        width: AV[int],
        attend: Attend,
        exchange: Exchange = PARALLEL,
        init_scale: float = 1.0,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        refuse_spread(attend, "additive", "resamples the streams in time")
        self.attend, self.exchange = attend, exchange
        self.reads = nn.ModuleDict(
            {m: AddedSteps(width[m], width[OTHER[m]], init_scale, precision) for m in exchange.readers}
        )

    def layout(self, grids: AV[TokenGrid]) -> AV[Mapping[str, Tensor]]:
        return AV(
            video=resampling_layout(grids["video"], grids["audio"]),
            audio=resampling_layout(grids["audio"], grids["video"]),
        )

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        met = self.exchange(streams, lambda m, mine, other: self.reads[m](mine, other))
        return AV.of({m: run_block(blocks[m], s, self.attend) for m, s in met.items()})
