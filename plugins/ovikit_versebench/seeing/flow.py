"""MS of Verse-Bench, how much the content of a clip moves: the mean magnitude of RAFT's optical flow.

Read for it: raft/raft_inferencer.py and ``evaluate_raft_video`` of calculate_metrics.py, Verse-Bench at commit 5645a09,
where nothing calls the latter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import device, digest_of, need_asset, network, unwrapped
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.seeing.options import Rules
from ovikit_versebench.seeing.raft import BLOCK_PX, LEAST_PX, Raft

VERSION = "1"
LONGEST_PX = 512
OFFICIAL_LONGEST_PX = 640
OFFICIAL_LEAST_PX = 2 * LEAST_PX
"""Of a side, padded: below it the last level of the pyramid has one cell, and the tool's lookups divide 0 by 0."""
AT_ONCE = 4
"""Pairs. They take 1.5 GB at most, of 640 by 640 pixels."""


class FlowMagnitude:
    """``ms``: the mean magnitude of the flow between neighbouring frames.

    rules ``fixed``: its mean length in picture heights per second, of pairs ``every_s`` apart, of frames of which the
    longer side has 512 pixels at most, the padding left out; 0 of two equal frames.
    rules ``official``: the mean of the magnitudes of both its components in pixels, of all pairs, the padding
    included, of frames that were halved until no side had more than 640.
    """

    def __init__(self, assets: Assets, weights: str, rules: Rules, every_s: float) -> None:
        self._assets, self._weights, self._rules, self._every_s = assets, weights, rules, every_s
        self.needs = (
            need_asset(
                assets, weights, "BSD-3-Clause (RAFT); trained on FlyingChairs, FlyingThings3D, which are for research",
                "https://github.com/princeton-vl/RAFT",
            ),
        )  # fmt: skip
        fixed = rules == "fixed"
        self.view = View(longest_px=LONGEST_PX if fixed else None, modalities=("video",))
        options = f"{rules}/{every_s}" if fixed else rules
        self.version = f"{VERSION}/{options}/{digest_of(assets, *self.needs)}"
        self.metrics = (
            MetricSpec(
                "ms", "higher", "heights/s" if fixed else "px/frame", (0.0, math.inf), self.version,
                "mean length of the optical flow (RAFT), in picture heights per second" if fixed else
                "mean magnitude of the components of the optical flow (RAFT), in pixels of frames of 640 at most",
            ),
        )  # fmt: skip

    @cached_property
    def _network(self) -> Raft:
        return network(Raft, self._assets.path(self._weights), named=unwrapped)

    def features(self, clip: Clip) -> dict[str, Any]:
        if clip.video is None or len(clip.video) < 2:
            return {"why": "there are fewer than two frames", "magnitude": None}
        found = self._speed(clip.video, clip.frame_rate_hz) if self._rules == "fixed" else self._official(clip.video)
        if found is None:
            return {
                "why": f"the tool has no number for pictures with a side below {OFFICIAL_LEAST_PX} px",
                "magnitude": None,
            }
        if not math.isfinite(found):
            return {"why": "the flow is NaN or Inf", "magnitude": None}
        return {"why": None, "magnitude": round(found, 7)}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        return {"ms": video["magnitude"] if video["why"] is None else Unscored(video["why"])}

    def _speed(self, video: Tensor, rate_hz: float) -> float:
        """Picture heights per second."""
        starts = list(range(0, len(video) - 1, max(1, round(self._every_s * rate_hz))))
        moving = [k for k in starts if not torch.equal(video[k], video[k + 1])]
        total = 0.0
        for flow in self._flows(video, moving):
            total += float(flow.norm(dim=1).mean(dim=(1, 2)).double().sum())
        return total / len(starts) / video.shape[1] * rate_hz

    def _official(self, video: Tensor) -> float | None:
        """Pixels per frame; None of pictures that are too small."""
        size = halved_px(*video.shape[1:3])
        if min(size) <= OFFICIAL_LEAST_PX - BLOCK_PX:
            return None
        total, starts = 0.0, list(range(len(video) - 1))
        for flow in self._flows(video, starts):
            total += float(flow.abs().mean(dim=(1, 2, 3)).double().sum())
        return total / len(starts)

    @torch.inference_mode()
    def _flows(self, video: Tensor, starts: list[int]) -> Iterator[Tensor]:
        """(b, 2, height, width) flow from each frame that is asked for to the next, ``AT_ONCE`` pairs together."""
        for k in range(0, len(starts), AT_ONCE):
            firsts = torch.tensor(starts[k : k + AT_ONCE])
            pair = [self._pictures(video[frames]) for frames in (firsts, firsts + 1)]
            margins = margins_px(*pair[0].shape[-2:])
            flow = self._network(*(F.pad(one, margins, mode="replicate") for one in pair))
            yield flow if self._rules == "official" else F.pad(flow, [-margin for margin in margins])

    def _pictures(self, frames: Tensor) -> Tensor:
        """(b, 3, height, width) in [0, 255], of frames (b, height, width, 3)."""
        pictures = frames.to(device()).permute(0, 3, 1, 2).float()
        return pictures if self._rules == "fixed" else halved(pictures)


def halved_px(height: int, width: int) -> tuple[int, int]:
    """Height and width after as many halvings as leave no side with more than ``OFFICIAL_LONGEST_PX``."""
    while max(height, width) > OFFICIAL_LONGEST_PX:
        height, width = height // 2, width // 2
    return height, width


def halved(pictures: Tensor) -> Tensor:
    """Pictures (b, c, height, width) in [0, 255] brought to ``halved_px``, in whole numbers: by bilinear sampling,
    which leaves pixels out where a side is halved twice, as OpenCV's does."""
    size = halved_px(*pictures.shape[-2:])
    if size == tuple(pictures.shape[-2:]):
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False).add(0.5).floor()


def margins_px(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels to the left, to the right, above and below that make whole blocks of a picture, and ``LEAST_PX`` of each
    side."""
    right, below = (max(LEAST_PX, -(-side // BLOCK_PX) * BLOCK_PX) - side for side in (width, height))
    return right // 2, right - right // 2, below // 2, below - below // 2
