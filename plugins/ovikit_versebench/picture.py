"""What a picture is as a signal: brightness, contrast, sharpness, flicker, frozen and black frames; and its motion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ovikit.data.flow import SIDE_PX, mean_speed
from ovikit.data.levels import black_share, brightness
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.extras import require
from ovikit.generate.media import View
from ovikit.types import Clip

VERSION = "2"
PLAIN = 1e-3
"""Contrast below which a frame shows nothing whose sharpness could be told."""


class PictureSignal:
    """Numbers of the picture alone, of frames of which the longer side has 512 pixels at most."""

    version = VERSION
    view = View(longest_px=512, modalities=("video",))

    def __init__(self, frozen_below: float, black_below: float) -> None:
        self._frozen_below, self._black_below = frozen_below, black_below
        self.metrics = (
            MetricSpec("brightness", "neither", "", (0.0, 1.0), VERSION, "mean brightness (BT.601)"),
            MetricSpec("contrast", "neither", "", (0.0, 1.0), VERSION, "mean deviation of brightness within a frame"),
            MetricSpec(
                "sharpness", "neither", "", (0.0, math.inf), VERSION,
                "standard deviation of the Laplacian over that of the brightness, mean over frames",
            ),
            MetricSpec(
                "flicker", "lower", "", (0.0, 1.0), VERSION,
                "mean distance of a frame's mean brightness from the mean of its neighbours'",
            ),
            MetricSpec(
                "frozen_share", "lower", "", (0.0, 1.0), f"{VERSION}/{frozen_below}",
                f"share of frames that differ from the one before by less than {frozen_below:g} of full brightness",
            ),
            MetricSpec(
                "black_share", "lower", "", (0.0, 1.0), f"{VERSION}/{black_below}",
                f"share of frames in which 98 of 100 pixels are no brighter than {black_below:g}",
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        if clip.video is None or len(clip.video) == 0:
            return {"why": "no picture"}
        grey = brightness(clip.video)
        # Frame by frame, while it is in the processor's cache.
        level, contrast, edges = torch.stack([_levels(frame) for frame in grey]).T
        told = contrast >= PLAIN
        return {
            "why": None,
            "brightness": float(level.mean()),
            "contrast": float(contrast.mean()),
            "sharpness": float((edges[told] / contrast[told]).mean()) if told.any() else None,
            "flicker": float((level[1:-1] - (level[:-2] + level[2:]) / 2).abs().mean()) if len(level) > 2 else None,
            "frozen_share": _frozen(grey, self._frozen_below),
            "black_share": black_share(grey, self._black_below),
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if video["why"] is not None:
            return {metric.name: Unscored(video["why"]) for metric in self.metrics}
        lacking = {
            "sharpness": "no frame shows anything",
            "flicker": "there are fewer than three frames",
            "frozen_share": "there is one frame",
        }
        return {
            metric.name: Unscored(lacking[metric.name]) if video[metric.name] is None else video[metric.name]
            for metric in self.metrics
        }


def _levels(frame: Tensor) -> Tensor:
    """Mean and deviation of a frame's brightness, and the deviation of its Laplacian."""
    return torch.stack([frame.mean(), frame.std(correction=0), laplacian(frame[None]).std(correction=0)])


def laplacian(grey: Tensor) -> Tensor:
    """(frames, height - 2, width - 2) of (frames, height, width), of which each side has three pixels at least; zeros
    of smaller ones."""
    if min(grey.shape[1:]) < 3:
        return torch.zeros_like(grey)
    beside = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return beside + grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] - 4 * grey[:, 1:-1, 1:-1]


def _frozen(grey: Tensor, below: float) -> float | None:
    if len(grey) < 2:
        return None
    same = [bool((now - before).abs().mean() < below) for before, now in pairwise(grey)]
    return sum(same) / len(same)


class Motion:
    """How fast the content moves. UserError where OpenCV, of the extra ``eval``, is missing."""

    version = VERSION
    view = View(longest_px=SIDE_PX, modalities=("video",))

    def __init__(self, every_s: float) -> None:
        require("cv2", "eval")
        self._every_s = every_s
        self.metrics = (
            MetricSpec(
                "motion_heights_per_s", "neither", "heights/s", (0.0, math.inf), f"{VERSION}/{every_s}",
                "mean length of the optical flow (dense inverse search), in picture heights per second",
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        if clip.video is None or len(clip.video) < 2:
            return {"speed": None}
        return {"speed": mean_speed(clip.video, clip.frame_rate_hz, self._every_s, "eval")}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        found = video["speed"]
        return {"motion_heights_per_s": Unscored("there are fewer than two frames") if found is None else found}
