"""Filters of the picture."""

from __future__ import annotations

from ovikit.data.filters import Verdict
from ovikit.data.flow import mean_speed
from ovikit.data.levels import black_share, brightness
from ovikit.types import Clip

NO_PICTURE = Verdict(why="it has no picture")


class Motion:
    """Leaves out clips whose content moves too slowly, by the optical flow between neighbouring frames."""

    def __init__(self, least: float, most: float | None, every_s: float) -> None:
        self.least, self.most, self.every_s = least, most, every_s

    def judge(self, clip: Clip) -> Verdict:
        if clip.video is None:
            return NO_PICTURE
        found = round(mean_speed(clip.video, clip.frame_rate_hz, self.every_s, "data"), 4)
        why = None
        if found < self.least:
            why = f"it moves by {found:.3f} picture heights a second, less than {self.least:g}"
        elif self.most is not None and found > self.most:
            why = f"it moves by {found:.3f} picture heights a second, more than {self.most:g}"
        return Verdict({"motion_heights_per_s": found}, why)

    def fingerprint(self) -> str:
        return f"motion/1/{self.least}/{self.most}/{self.every_s}"


class Black:
    """Leaves out clips of whose frames more than the share ``most`` are black."""

    def __init__(self, most: float, below: float) -> None:
        self.most, self.below = most, below

    def judge(self, clip: Clip) -> Verdict:
        if clip.video is None:
            return NO_PICTURE
        found = round(black_share(map(brightness, clip.video), self.below), 4)
        why = f"{100 * found:.0f} % of its frames are black, more than {100 * self.most:g} %"
        return Verdict({"black_share": found}, why if found > self.most else None)

    def fingerprint(self) -> str:
        return f"black/1/{self.most}/{self.below}"
