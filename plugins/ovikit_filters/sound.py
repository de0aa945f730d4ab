"""Filters of the sound."""

from __future__ import annotations

import torch
from torch import Tensor

from ovikit.data.filters import Verdict
from ovikit.types import Clip

FLOOR_DB = -120.0
"""What digital silence counts as."""
WINDOW_S = 0.05
MUTE = Verdict(why="it has no sound")


def volume_db(samples: Tensor) -> Tensor:
    """The mean volume of each row of (..., samples) in decibels below full scale: of the root mean square, a full-scale
    sine being -3.01, at least ``FLOOR_DB``."""
    power = samples.double().square().mean(dim=-1)
    return (10 * power.log10()).clamp_min(FLOOR_DB)


class Loudness:
    """Leaves out clips whose mean volume is below ``least_db``."""

    def __init__(self, least_db: float) -> None:
        self.least_db = least_db

    def judge(self, clip: Clip) -> Verdict:
        if clip.audio is None:
            return MUTE
        found = round(float(volume_db(clip.audio)), 2)
        quiet = found < self.least_db
        why = f"its volume is {found:.1f} dB, below {self.least_db:g} dB" if quiet else None
        return Verdict({"volume_db": found}, why)

    def fingerprint(self) -> str:
        return f"loudness/1/{self.least_db}"


class Silence:
    """Leaves out clips of whose windows of ``WINDOW_S`` more than the share ``most`` are below ``below_db``."""

    def __init__(self, most: float, below_db: float) -> None:
        self.most, self.below_db = most, below_db

    def judge(self, clip: Clip) -> Verdict:
        if clip.audio is None:
            return MUTE
        size = max(1, round(WINDOW_S * clip.sample_rate_hz))
        whole = len(clip.audio) // size * size
        windows = clip.audio[:whole].view(-1, size) if whole else clip.audio[None]
        found = round(float((volume_db(windows) < self.below_db).to(torch.float64).mean()), 4)
        why = f"{100 * found:.0f} % of it is silent, more than {100 * self.most:g} %" if found > self.most else None
        return Verdict({"silent_share": found}, why)

    def fingerprint(self) -> str:
        return f"silence/1/{self.most}/{self.below_db}"
