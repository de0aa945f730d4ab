"""Ovi's fusion: inside the context attention, the text and the other modality are read with one query.

    heads = attend(q, k_text, v_text) + attend(rotate(q), rotate(k_other), v_other)

and the sum goes through the context attention's own output projection. Both directions read the streams as they are
after both self stages, so neither modality sees the other's text first; with an order of update the second one does.

Shape legend: b batch, n m tokens of the two streams, w width, h heads, d head width.
Source: the released Ovi code at 5b69b25.
"""

from __future__ import annotations

from collections.abc import Container

from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ovikit.networks.exchange import OTHER, PARALLEL, Exchange
from ovikit.networks.modulation import RMSNorm
from ovikit.networks.precision import FLOAT32, Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.rotary import rotate
from ovikit.networks.stages import context_attention, context_stage, feed_forward_stage, self_stage
from ovikit.types import AV, Modality, Stream


class OtherReader(nn.Module):
    """Keys and values that one tower's queries read from the other tower's tokens."""

    def __init__(
        self, other_width: int, width: int, heads: int, init_scale: float, eps: float, precision: Precision
    ) -> None:
        super().__init__()
        self.heads, self.init_scale, self.precision = heads, init_scale, precision
        self.pre_norm = nn.LayerNorm(other_width, eps=eps)
        self.k = nn.Linear(other_width, width)
        self.v = nn.Linear(other_width, width)
        self.norm_k = RMSNorm(width, eps, precision)

    def init_weights(self, generator: Generator) -> None:
        """Xavier, times ``init_scale``: a tenth in the paper, so that pretrained towers start nearly undisturbed."""
        for linear in (self.k, self.v):
            nn.init.xavier_uniform_(linear.weight, gain=self.init_scale, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, other: Float[Tensor, "b m w"]) -> tuple[Float[Tensor, "b m h d"], Float[Tensor, "b m h d"]]:
        """Key and value of the other stream's tokens."""
        other = self.precision.narrow(self.precision.layer_norm(self.pre_norm, other))
        key, value = self.norm_k(self.k(other)), self.v(other)
        return tuple(rearrange(x, "b m (h d) -> b m h d", h=self.heads) for x in (key, value))  # type: ignore[return-value]


class OviFusionLayer(nn.Module):
    """The fusion of one layer."""

    def __init__(
        self,
        width: AV[int],
        heads: AV[int],
        attend: Attend,
        init_scale: float = 0.1,
        eps: float = 1e-6,
        precision: Precision = FLOAT32,
        exchange: Exchange = PARALLEL,
    ) -> None:
        super().__init__()
        self.attend, self.exchange = attend, exchange
        self.reads = nn.ModuleDict(
            {m: OtherReader(width[OTHER[m]], width[m], heads[m], init_scale, eps, precision) for m in exchange.readers}
        )

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        mods = blocks.zip(streams, lambda block, stream: block.modulation(stream.noise))
        after_self = AV.of({m: self_stage(blocks[m], s, mods[m], self.attend) for m, s in streams.items()})
        merged = self.exchange(
            after_self,
            lambda m, mine, other: self._context_stage(m, blocks[m], mine, other),
            lambda m, mine: context_stage(blocks[m], mine, self.attend),
        )
        return AV.of({m: feed_forward_stage(blocks[m], s, mods[m]) for m, s in merged.items()})

    def _context_stage(self, modality: Modality, block: Block, mine: Stream, other: Stream) -> Stream:
        heads, query = context_attention(block, mine, self.attend)
        key, value = self.reads[modality](other.tokens)
        query, key = rotate(query, mine.rotations["fusion"]), rotate(key, other.rotations["fusion"])
        heads = heads + self.attend(query, key, value, other.lengths)
        return mine.with_tokens(block.context_merge(mine.tokens, heads))


def ovi_fusion(
    depth: int,
    width: AV[int],
    heads: AV[int],
    attend: Attend,
    init_scale: float = 0.1,
    precision: Precision = FLOAT32,
    exchange: Exchange = PARALLEL,
    layers: Container[int] | None = None,
) -> list[nn.Module | None]:
    """One OviFusionLayer per layer, or None for those that are not in ``layers``. ValueError when the towers' head
    widths differ, since queries of one meet keys of the other."""
    if width["video"] // heads["video"] != width["audio"] // heads["audio"]:
        raise ValueError("Ovi's fusion needs towers with equal head width")
    return [
        OviFusionLayer(width, heads, attend, init_scale, precision=precision, exchange=exchange)
        if layers is None or i in layers
        else None
        for i in range(depth)
    ]
