"""The plain ``attend``: PyTorch's scaled dot-product attention, on whatever backend the device offers.

Shape legend: b batch, n queries, m keys, h heads, d head width.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ovikit.networks.protocols import Attend


@runtime_checkable
class SpreadAttend(Protocol):
    """An ``attend`` whose tokens are spread over processes; ``local`` is for keys that each of them holds whole."""

    local: Attend


def whole_keys(attend: Attend) -> Attend:
    """The ``attend`` for keys that are not spread over processes: the text's."""
    return attend.local if isinstance(attend, SpreadAttend) else attend


def length_mask(lengths: Int[Tensor, " b"], size: int) -> Bool[Tensor, "b {size}"]:
    """True where a token lies within its item's length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def sdpa(
    query: Float[Tensor, "b n h d"],
    key: Float[Tensor, "b m h d"],
    value: Float[Tensor, "b m h d"],
    lengths: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b n h d"]:
    """Attended values; keys past ``lengths`` are not read."""
    mask = None if lengths is None else length_mask(lengths, key.shape[1])[:, None, None, :]
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)
