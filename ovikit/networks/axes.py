"""How a head's channel pairs are shared out between time, rows and columns, and how fast each turns.

Shape legend: n tokens, d head width.

A head's d channels are shared out as (d - 4 (d // 6), 2 (d // 6), 2 (d // 6)) for time, rows and columns, as in Wan.
Where a token lies is a float64 number per axis: what it counts is the positional scheme's choice.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor


def axis_channels(head_width: int) -> tuple[int, int, int]:
    """How many of a head's channels turn with time, rows and columns: (44, 42, 42) of 128."""
    spatial = 2 * (head_width // 6)
    return head_width - 2 * spatial, spatial, spatial


def frequencies(channels: int, theta: float) -> Float64[Tensor, " {channels}//2"]:
    """theta ** (-2 i / channels), for each pair i of channels."""
    return theta ** -(torch.arange(0, channels, 2, dtype=torch.float64) / channels)


def axis_angles(places: Float64[Tensor, "n 3"], head_width: int, theta: float) -> Float64[Tensor, "n {head_width}//2"]:
    """By how much each channel pair turns for tokens at these times, rows and columns; nothing at zero."""
    parts = [
        places[:, axis, None] * frequencies(channels, theta) for axis, channels in enumerate(axis_channels(head_width))
    ]
    return torch.cat(parts, dim=1)
