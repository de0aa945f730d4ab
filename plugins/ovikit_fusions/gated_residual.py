"""Gated residual attentions, one for each direction, between the attention over the text and the feed-forward network.

    x = x + gate(noise of the other) * o(attend(q(m(x)), k(m(other)), v(m(other))))
    m(x) = norm(x) * (1 + scale(own noise)) + shift(own noise)

What is read is gated by how noisy its source still is. The towers may differ in width, heads and depth.

Shape legend: b batch, n m tokens of the two streams, s noise levels of a clip, e width of a noise embedding, w width.
Source: LTX-2 (arXiv 2601.03233), in our own words and code.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ovikit.networks.exchange import OTHER, PARALLEL, Exchange
from ovikit.networks.modulation import gated, modulated
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.types import AV, Stream
from ovikit_fusions.meeting import meet_before_feed_forward
from ovikit_fusions.reading import EPS, InnerHeads, Reader


class NoiseRows(nn.Module):
    """Rows of a width that depend on the noise level; zero at first.

    They are made through ``rank`` channels: the embedding runs along a curve, one noise level after another, and whole
    matrices would be larger than the attention itself.
    """

    def __init__(self, embedding_width: int, rows: int, width: int, rank: int, precision: Precision) -> None:
        super().__init__()
        self.rows, self.precision = rows, precision
        self.down = nn.Linear(embedding_width, rank)
        self.up = nn.Linear(rank, rows * width)

    def init_weights(self, generator: Generator) -> None:
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, embedding: Float[Tensor, "b s e"]) -> tuple[Float[Tensor, "b s w"], ...]:
        hidden = self.precision.linear(self.down, F.silu(embedding))
        return self.precision.linear(self.up, F.silu(hidden)).chunk(self.rows, dim=-1)


class GatedReader(nn.Module):
    """One direction: a stream after it has read the other one."""

    def __init__(
        self,
        width: int,
        other_width: int,
        inner: InnerHeads,
        attend: Attend,
        rank: int,
        init_scale: float,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.attend, self.precision = attend, precision
        self.norm = nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
        self.other_norm = nn.LayerNorm(other_width, eps=EPS, elementwise_affine=False)
        self.affine = NoiseRows(width, 2, width, rank, precision)
        self.other_affine = NoiseRows(other_width, 2, other_width, rank, precision)
        self.gate = NoiseRows(other_width, 1, width, rank, precision)
        self.reader = Reader(width, other_width, inner, init_scale, precision)

    def _modulated(self, stream: Stream, norm: nn.LayerNorm, affine: NoiseRows) -> Float[Tensor, "b n w"]:
        """The normed tokens, shifted and scaled by the stream's own noise levels."""
        shift, scale = affine(stream.noise.embedding)
        normed = self.precision.layer_norm(norm, stream.tokens)
        return self.precision.narrow(modulated(normed, shift, scale, stream.noise.spans, self.precision))

    def forward(self, mine: Stream, other: Stream) -> Stream:
        update = self.reader(
            self._modulated(mine, self.norm, self.affine),
            self._modulated(other, self.other_norm, self.other_affine),
            self.attend,
            other.lengths,
            (mine.rotations["fusion"], other.rotations["fusion"]),
        )
        # The last level is that of what is being denoised; levels before it belong to a given start.
        (gate,) = self.gate(other.noise.embedding[:, -1:])
        return mine.with_tokens(gated(mine.tokens, update, 1 + gate, (update.shape[1],), self.precision))


class GatedResidualLayer(nn.Module):
    """The fusion of one layer."""

    def __init__(
        self,
        width: AV[int],
        inner: InnerHeads,
        attend: Attend,
        exchange: Exchange = PARALLEL,
        rank: int = 64,
        init_scale: float = 1.0,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__()
        self.attend, self.exchange, self.head_width = attend, exchange, inner.head_width
        self.reads = nn.ModuleDict(
            {
                m: GatedReader(width[m], width[OTHER[m]], inner, attend, rank, init_scale, precision)
                for m in exchange.readers
            }
        )

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        return meet_before_feed_forward(
            blocks, streams, self.attend, self.exchange, lambda m, mine, other: self.reads[m](mine, other)
        )
