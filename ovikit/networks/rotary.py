"""Rotations applied: angles become cosines and sines once per shape, and turn adjacent channel pairs.

Shape legend: b batch, n tokens, h heads, d head width, p channel pairs (d / 2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ovikit.types import Rotation


def rotation(angles: Float[Tensor, "n p"], device: torch.device | str, dtype: torch.dtype) -> Rotation:
    """Cosines and sines of float64 angles, in float32, or in float64 for a float64 model."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    angles = angles.to(torch.float64)
    return Rotation(angles.cos().to(device, kept), angles.sin().to(device, kept))


def rotate(x: Float[Tensor, "b n h d"], by: Rotation) -> Float[Tensor, "b n h d"]:
    """``x`` with each adjacent channel pair turned by the token's angle, in the dtype of ``x``."""
    # bfloat16 products of cosines lose the angle, so the turn itself is made in the rotation's own precision.
    pairs = x.to(by.cos.dtype).unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        # One product of complex numbers passes over memory half as often as the four real ones below, which the
        # compiler fuses into one pass; it does not fuse complex numbers.
        turned = torch.view_as_complex(pairs) * torch.complex(by.cos, by.sin)[:, None]
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)
    even, odd = pairs.unbind(-1)
    cos, sin = by.cos[:, None], by.sin[:, None]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
