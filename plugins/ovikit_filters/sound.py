"""Filters of the sound."""

from __future__ import annotations

from ovikit.data.filters import Verdict
from ovikit.data.levels import silent_share, volume_db
from ovikit.types import Clip

MUTE = Verdict(why="it has no sound")


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
    """Leaves out clips of whose windows of 50 ms more than the share ``most`` are below ``below_db``."""

    def __init__(self, most: float, below_db: float) -> None:
        self.most, self.below_db = most, below_db

    def judge(self, clip: Clip) -> Verdict:
        if clip.audio is None:
            return MUTE
        found = round(silent_share(clip.audio, clip.sample_rate_hz, self.below_db), 4)
        why = f"{100 * found:.0f} % of it is silent, more than {100 * self.most:g} %" if found > self.most else None
        return Verdict({"silent_share": found}, why)

    def fingerprint(self) -> str:
        return f"silence/1/{self.most}/{self.below_db}"
