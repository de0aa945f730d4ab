"""One tower's tokens read the other's: the projections of a residual attention, and attention that may find nothing.

Shape legend: b batch, n m tokens of the two streams, w width, i inner width (h d), h heads, d head width.
"""

from __future__ import annotations

from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from ovikit.networks.modulation import RMSNorm
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Attend
from ovikit.networks.rotary import rotate
from ovikit.types import AV, Rotation

EPS = 1e-6
"""Added to the variance in every norm of these fusions, as in the towers."""


class InnerHeads(NamedTuple):
    """The heads in which queries of one tower meet keys of the other."""

    heads: int
    head_width: int

    @property
    def width(self) -> int:
        return self.heads * self.head_width


def inner_heads(width: AV[int], heads: AV[int], count: int | None = None, head_width: int | None = None) -> InnerHeads:
    """The heads of a fusion: as asked for, and for the rest those of the narrower tower."""
    narrower = "audio" if width["audio"] < width["video"] else "video"
    own = width[narrower] // heads[narrower]
    return InnerHeads(count or heads[narrower], head_width or own)


class Reader(nn.Module):
    """Queries from one tower's tokens, keys and values from the other's, and the way back to the first one's width.

    Queries and keys are RMS-normalised over the inner width. ``init_scale`` is a factor on the usual initial weights of
    the output projection alone: at 0 nothing is added at first, and the gradient of that projection is not zero.
    """

    def __init__(
        self, width: int, other_width: int, inner: InnerHeads, init_scale: float, precision: Precision
    ) -> None:
        super().__init__()
        self.heads, self.init_scale = inner.heads, init_scale
        self.q = nn.Linear(width, inner.width)
        self.k = nn.Linear(other_width, inner.width)
        self.v = nn.Linear(other_width, inner.width)
        self.o = nn.Linear(inner.width, width)
        self.norm_q = RMSNorm(inner.width, EPS, precision)
        self.norm_k = RMSNorm(inner.width, EPS, precision)

    def init_weights(self, generator: Generator) -> None:
        nn.init.xavier_uniform_(self.o.weight, gain=self.init_scale, generator=generator)
        nn.init.zeros_(self.o.bias)

    def split(self, x: Float[Tensor, "*any i"]) -> Float[Tensor, "*any h d"]:
        return rearrange(x, "... (h d) -> ... h d", h=self.heads)

    def query(self, mine: Float[Tensor, "b n w"]) -> Float[Tensor, "b n h d"]:
        return self.split(self.norm_q(self.q(mine)))

    def key(self, projected: Float[Tensor, "*any i"]) -> Float[Tensor, "*any h d"]:
        """Keys of what ``k`` gave, which is linear in the tokens."""
        return self.split(self.norm_k(projected))

    def output(self, attended: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n w"]:
        return self.o(rearrange(attended, "b n h d -> b n (h d)"))

    def forward(
        self,
        mine: Float[Tensor, "b n w"],
        other: Float[Tensor, "b m w2"],
        attend: Attend,
        lengths: Int[Tensor, " b"] | None = None,
        turned: tuple[Rotation, Rotation] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """What each token reads of all tokens of the other stream.

        lengths: valid tokens of the other stream
        turned:  rotations of the queries and of the keys; None: nothing turns
        """
        query, key, value = self.query(mine), self.key(self.k(other)), self.split(self.v(other))
        if turned is not None:
            query, key = rotate(query, turned[0]), rotate(key, turned[1])
        return self.output(attend_or_zero(attend, query, key, value, lengths))


def attend_or_zero(
    attend: Attend,
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b m h d"],
    value: Float[Tensor, "b m h d"],
    lengths: Int[Tensor, " b"] | None,
) -> Float[Tensor, "b n h d"]:
    """The attended values; zero for an item that has nothing to read, where a softmax over no keys is no number."""
    if lengths is None:
        return attend(query, key, value, None)
    found = attend(query, key, value, lengths.clamp(min=1))
    return found.masked_fill((lengths < 1)[:, None, None, None], 0)
