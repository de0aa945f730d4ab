"""One self-attention over the tokens of both towers, with each tower's own projections: no weights beside theirs.

    heads = attend([q_video, q_audio], [k_video, k_audio], [v_video, v_audio])

All of them turn by the positions' ``fusion`` rotations, so that a score sees when each token is, whichever stream it is
from. The attention over the text and the feed-forward networks stay each tower's own.

Shape legend: b batch, n m tokens of the two streams, k all keys, h heads, d head width.
Source: MMDiT (arXiv 2403.03206), for audio and video JavisDiT++ (arXiv 2602.19163).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ovikit.networks.attention import length_mask
from ovikit.networks.exchange import PARALLEL, Exchange, refuse_spread
from ovikit.networks.protocols import Attend, Block, Heads
from ovikit.networks.rotary import rotate
from ovikit.networks.stages import context_stage, feed_forward_stage, self_stage
from ovikit.types import AV, Modality, Stream


class JointLayer(nn.Module):
    """The fusion of one layer. ValueError for towers whose heads differ in number or width, since they attend in one,
    and where tokens are spread over processes."""

    def __init__(self, width: AV[int], heads: AV[int], attend: Attend, exchange: Exchange = PARALLEL) -> None:
        super().__init__()
        head_width = AV.of({m: width[m] // heads[m] for m in width.modalities})
        if heads["video"] != heads["audio"] or head_width["video"] != head_width["audio"]:
            raise ValueError(
                "joint attention needs towers with equal heads, and these have "
                f"{heads['video']} x {head_width['video']} (video) and {heads['audio']} x {head_width['audio']} (audio)"
            )
        refuse_spread(attend, "joint", "puts both streams into one attention")
        self.attend, self.exchange = attend, exchange

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        mods = blocks.zip(streams, lambda block, stream: block.modulation(stream.noise))
        met = self._self_stage(blocks, streams, mods)
        met = AV.of({m: context_stage(blocks[m], s, self.attend) for m, s in met.items()})
        return AV.of({m: feed_forward_stage(blocks[m], s, mods[m]) for m, s in met.items()})

    def _self_stage(self, blocks: AV[Block], streams: AV[Stream], mods: AV[Any]) -> AV[Stream]:
        """The streams after the one attention. A stream that skips its self-attention gives back its own values, and so
        reads nothing of the other one; a modality that does not read attends over its own tokens as ever."""
        readers: list[Modality] = [m for m in self.exchange.readers if not streams[m].skip_self]
        done = {m: self_stage(blocks[m], s, mods[m], self.attend) for m, s in streams.items() if m not in readers}
        if readers:
            turned = AV.of({m: _turned(blocks[m].self_heads(s.tokens, mods[m]), s) for m, s in streams.items()})
            key, value, lengths = _all_keys(turned, streams)
            query = torch.cat([turned[m].query for m in readers], dim=1)
            parts = self.attend(query, key, value, lengths).split([turned[m].query.shape[1] for m in readers], dim=1)
            for m, attended in zip(readers, parts, strict=True):
                done[m] = streams[m].with_tokens(blocks[m].self_merge(streams[m].tokens, attended, mods[m]))
        return AV.of(done)


def _turned(heads: Heads, stream: Stream) -> Heads:
    by = stream.rotations["fusion"]
    return Heads(rotate(heads.query, by), rotate(heads.key, by), heads.value)


def _all_keys(
    heads: AV[Heads], streams: AV[Stream]
) -> tuple[Float[Tensor, "b k h d"], Float[Tensor, "b k h d"], Int[Tensor, " b"] | None]:
    """Keys and values of both streams, the valid ones first, and how many of those each item has."""
    key, value = (torch.cat([one[i] for one in heads.values()], dim=1) for i in (1, 2))
    if all(stream.lengths is None for stream in streams.values()):
        return key, value, None
    valid = torch.cat([_valid(stream) for stream in streams.values()], dim=1)
    # A stable sort of "is padding" moves the padding behind both streams and keeps all else in order.
    order = torch.argsort((~valid).to(torch.int32), dim=1, stable=True)[:, :, None, None]
    key, value = (torch.take_along_dim(x, order, dim=1) for x in (key, value))
    return key, value, valid.sum(1)


def _valid(stream: Stream) -> Tensor:
    batch, size = stream.tokens.shape[:2]
    lengths = stream.lengths
    if lengths is None:
        return torch.ones(batch, size, dtype=torch.bool, device=stream.tokens.device)
    return length_mask(lengths, size)
