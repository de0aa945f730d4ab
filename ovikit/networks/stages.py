"""The default stages of a block. A tower alone runs all three; a fusion replaces the ones it changes.

Shape legend: b batch, n tokens, w width, h heads, d head width.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ovikit.networks.attention import whole_keys
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.rotary import rotate
from ovikit.types import Stream


def self_stage(block: Block, stream: Stream, mod: Any, attend: Attend) -> Stream:
    """The stream after attention over its own tokens."""
    heads = block.self_heads(stream.tokens, mod)
    if stream.skip_self:
        attended = heads.value
    else:
        by = stream.rotations["self"]
        attended = attend(rotate(heads.query, by), rotate(heads.key, by), heads.value, stream.lengths)
    return stream.with_tokens(block.self_merge(stream.tokens, attended, mod))


def context_attention(
    block: Block, stream: Stream, attend: Attend
) -> tuple[Float[Tensor, "b n h d"], Float[Tensor, "b n h d"]]:
    """The text-attended heads, and the query that read them, as it was before any rotation."""
    heads = block.context_heads(stream.tokens, stream.context)
    query, key = heads.query, heads.key
    if "text" in stream.rotations:
        query, key = rotate(query, stream.rotations["text"]), rotate(key, stream.rotations["words"])
    attended = whole_keys(attend)(query, key, heads.value, stream.context_lengths)
    return attended, heads.query


def context_stage(block: Block, stream: Stream, attend: Attend) -> Stream:
    """The stream after attention over the text."""
    attended, _ = context_attention(block, stream, attend)
    return stream.with_tokens(block.context_merge(stream.tokens, attended))


def feed_forward_stage(block: Block, stream: Stream, mod: Any) -> Stream:
    """The stream after the feed-forward network."""
    return stream.with_tokens(block.feed_forward(stream.tokens, mod))


def run_block(block: Block, stream: Stream, attend: Attend) -> Stream:
    """The stream after one block of a tower that runs alone."""
    mod = block.modulation(stream.noise)
    stream = self_stage(block, stream, mod, attend)
    stream = context_stage(block, stream, attend)
    return feed_forward_stage(block, stream, mod)
