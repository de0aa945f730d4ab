"""The plain ``attend``: PyTorch's scaled dot-product attention, on whatever backend the device offers.

Shape legend: b batch, n queries, m keys, h heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(b, size) bool: True where a token lies within its item's length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def sdpa(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Attended values (b, n, h, d) of q (b, n, h, d), k and v (b, m, h, d); keys past ``lengths`` (b,) are not read."""
    mask = None if lengths is None else length_mask(lengths, key.shape[1])[:, None, None, :]
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)
