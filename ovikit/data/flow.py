"""How fast the content of a picture moves: dense optical flow (dense inverse search, Kroeger et al. 2016, OpenCV)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ovikit.extras import require

SIDE_PX = 256
"""Longer side of the frames that flow is measured on: what moves by less than a pixel there does not count."""


def mean_speed(video: Tensor, rate_hz: float, every_s: float, extra: str) -> float:
    """The mean length of the flow between neighbouring frames of (frames, height, width, 3), in picture heights per
    second; 0 of fewer than two frames.

    every_s: seconds between the pairs of frames that are compared
    extra:   names the extra in the error where OpenCV is not installed
    """
    if len(video) < 2:
        return 0.0
    cv2: Any = require("cv2", extra)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    starts = range(0, len(video) - 1, max(1, round(every_s * rate_hz)))
    return sum(_step(cv2, flow, video[k : k + 2]) for k in starts) / len(starts) * rate_hz


def _step(cv2: Any, flow: Any, pair: Tensor) -> float:
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
