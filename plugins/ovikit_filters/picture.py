"""Filters of the picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovikit.data.filters import Verdict
from ovikit.extras import require
from ovikit.types import Clip

SIDE_PX = 256
"""Longer side of the frames that flow is measured on: what moves by less than a pixel there does not count."""
WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in the brightness (BT.601)."""
NO_PICTURE = Verdict(why="it has no picture")


def brightness(video: Tensor) -> Tensor:
    """(frames, height, width) in [0, 1] of pixels (frames, height, width, 3)."""
    return (video.float() @ torch.tensor(WEIGHTS)) / 255


class Motion:
    """Leaves out clips whose content moves too slowly: the mean length of the optical flow (dense inverse search,
    Kroeger et al. 2016, OpenCV) between neighbouring frames, in picture heights per second."""

    def __init__(self, least: float, most: float | None, every_s: float) -> None:
        self.least, self.most, self.every_s = least, most, every_s

    def judge(self, clip: Clip) -> Verdict:
        if clip.video is None:
            return NO_PICTURE
        found = round(self._speed(clip.video, clip.frame_rate_hz), 4)
        why = None
        if found < self.least:
            why = f"it moves by {found:.3f} picture heights a second, less than {self.least:g}"
        elif self.most is not None and found > self.most:
            why = f"it moves by {found:.3f} picture heights a second, more than {self.most:g}"
        return Verdict({"motion_heights_per_s": found}, why)

    def _speed(self, video: Tensor, rate_hz: float) -> float:
        if len(video) < 2:
            return 0.0
        cv2: Any = require("cv2", "data")
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        starts = range(0, len(video) - 1, max(1, round(self.every_s * rate_hz)))
        return sum(self._step(cv2, flow, video[k : k + 2]) for k in starts) / len(starts) * rate_hz

    def _step(self, cv2: Any, flow: Any, pair: Tensor) -> float:
        """The mean flow from one frame to the next, in picture heights."""
        _, height, width, _ = pair.shape
        scale = min(1.0, SIDE_PX / max(height, width))
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        grey = [
            cv2.resize(cv2.cvtColor(frame.numpy(), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
            for frame in pair
        ]
        moved = torch.from_numpy(flow.calc(grey[0], grey[1], None))
        return float(moved.norm(dim=-1).mean()) / size[1]

    def fingerprint(self) -> str:
        return f"motion/1/{self.least}/{self.most}/{self.every_s}"


class Black:
    """Leaves out clips of whose frames more than the share ``most`` are black."""

    def __init__(self, most: float, below: float) -> None:
        self.most, self.below = most, below

    def judge(self, clip: Clip) -> Verdict:
        if clip.video is None:
            return NO_PICTURE
        dark = [bool((brightness(frame) <= self.below).float().mean() >= 0.98) for frame in clip.video]
        found = round(sum(dark) / len(dark), 4)
        why = f"{100 * found:.0f} % of its frames are black, more than {100 * self.most:g} %"
        return Verdict({"black_share": found}, why if found > self.most else None)

    def fingerprint(self) -> str:
        return f"black/1/{self.most}/{self.below}"
