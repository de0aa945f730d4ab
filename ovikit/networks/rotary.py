"""Rotations applied: angles become cosines and sines once per shape, and turn adjacent channel pairs.

Shape legend: b batch, n tokens, h heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovikit.types import Rotation


def rotation(angles: Tensor, device: torch.device | str, dtype: torch.dtype) -> Rotation:
    """Cosines and sines of angles ``(n, d / 2)`` float64, in float32, or in float64 for a float64 model."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    angles = angles.to(torch.float64)
    return Rotation(angles.cos().to(device, kept), angles.sin().to(device, kept))


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """``x`` (b, n, h, d) with each adjacent channel pair turned by the token's angle, in the dtype of ``x``."""
    # bfloat16 products of cosines lose the angle, so the turn itself is made in the rotation's own precision.
    even, odd = x.to(by.cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = by.cos[:, None], by.sin[:, None]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
