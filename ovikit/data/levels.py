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
    """(frames, height, width) in [0, 1] of pixels (frames, height, width, 3)."""
    return (video.float() @ torch.tensor(WEIGHTS)) / 255


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
