"""How bright a picture is, and how loud a sound."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in the brightness (BT.601)."""
FLOOR_DB = -120.0
"""What digital silence counts as."""
WINDOW_S = 0.05


def brightness(video: Tensor) -> Tensor:
    """(..., height, width) in [0, 1] of pixels (..., height, width, 3)."""
    found = torch.empty(video.shape[:-1])
    frames = video.reshape(-1, *video.shape[-3:])
    for frame, grey in zip(frames, found.view(-1, *video.shape[-3:-1]), strict=True):
        # Frame by frame and colour by colour: three times as fast as one product with all pixels as floats.
        red, green, blue = frame.permute(2, 0, 1).contiguous().float()
        torch.mul(red, WEIGHTS[0] / 255, out=grey)
        grey.add_(green, alpha=WEIGHTS[1] / 255).add_(blue, alpha=WEIGHTS[2] / 255)
    return found


def black_share(frames: Iterable[Tensor], below: float) -> float:
    """The share of frames, given by their brightness (height, width), in which 98 of 100 pixels are no brighter than
    ``below``."""
    dark = [bool((frame <= below).float().mean() >= 0.98) for frame in frames]
    return sum(dark) / len(dark)


def volume_db(samples: Tensor) -> Tensor:
    """The mean volume of each row of (..., samples) in decibels below full scale: of the root mean square, a full-scale
    sine being -3.01, at least ``FLOOR_DB``."""
    power = samples.double().square().mean(dim=-1)
    return (10 * power.log10()).clamp_min(FLOOR_DB)


def silent_share(samples: Tensor, rate_hz: int, below_db: float) -> float:
    """The share of windows of ``WINDOW_S`` whose volume is below ``below_db``."""
    size = max(1, round(WINDOW_S * rate_hz))
    whole = len(samples) // size * size
    windows = samples[:whole].view(-1, size) if whole else samples[None]
    return float((volume_db(windows) < below_db).to(torch.float64).mean())
