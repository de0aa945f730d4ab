"""Where residual fusions touch a layer."""

from __future__ import annotations

from collections.abc import Callable

from ovikit.networks.exchange import Exchange
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.stages import context_stage, feed_forward_stage, self_stage
from ovikit.types import AV, Modality, Stream


def meet_before_feed_forward(
    blocks: AV[Block],
    streams: AV[Stream],
    attend: Attend,
    exchange: Exchange,
    read: Callable[[Modality, Stream, Stream], Stream],
) -> AV[Stream]:
    """The streams after a layer in which they meet between the attention over the text and the feed-forward networks.

    read: a modality's stream after it has read the other one, from both as they are there
    """
    mods = blocks.zip(streams, lambda block, stream: block.modulation(stream.noise))
    after_self = AV.of({m: self_stage(blocks[m], s, mods[m], attend) for m, s in streams.items()})
    met = exchange(AV.of({m: context_stage(blocks[m], s, attend) for m, s in after_self.items()}), read)
    return AV.of({m: feed_forward_stage(blocks[m], s, mods[m]) for m, s in met.items()})
