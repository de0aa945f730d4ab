"""From faces found in single frames to stretches of frames with one face, cut out for SyncNet.

Two ways: ``tracks`` and a padding of 0.4 as joonson/syncnet_python (run_pipeline.py), ``runs`` and 0.3 as Verse-Bench's
tool (syncnet_inferencer.py at commit 5645a09). Both write their crops as JPEG first, and the former as MPEG-4 before
that; here pixels stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovikit.extras import require

Box = Sequence[float]
"""Left, top, right, bottom, in pixels."""
SAME = 0.5
"""Overlap, of what both cover, from which on faces of two frames are one's."""
MOST_MISSED = 25
"""Frames for which a face may not be found within a track."""
SMOOTHED = 13
"""Frames of the median filter over places and sizes of a track."""
TRACK_PADDING, RUN_PADDING = 0.4, 0.3
"""By which share of its half side a face is cut out larger on each side, and twice that below."""
BORDER = 110
"""Grey of what lies beyond the picture."""
CUT = 27.0
SHORTEST_SCENE = 15
SCENE_PX = 256
LEAST_RUN = 50


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames with one face.

    first: number of the first frame
    boxes: (frames, 4)
    """

    first: int
    boxes: NDArray[np.float64]


def tracks(found: Sequence[Sequence[Box]], scenes: Sequence[range], longer_than: int, least_px: float) -> list[Stretch]:
    """The faces of each frame, most probable first, joined within scenes; gaps are filled in evenly.

    longer_than: frames in which the face is found
    least_px:    mean of the longer side
    """
    kept = []
    for scene in scenes:
        if len(scene) < longer_than:
            continue
        left = {i: list(found[i]) for i in scene}
        while (track := _next_track(left)) is not None:
            if len(track) <= longer_than:
                continue
            numbers = np.arange(min(track), max(track) + 1)
            known = np.asarray(list(track.values()), dtype=np.float64)
            boxes = np.stack([np.interp(numbers, list(track), known[:, side]) for side in range(4)], axis=1)
            if max(np.mean(boxes[:, 2:] - boxes[:, :2], axis=0)) > least_px:
                kept.append(Stretch(int(numbers[0]), boxes))
    return kept


def _next_track(left: dict[int, list[Box]]) -> dict[int, Box] | None:
    """Takes one face out of as many frames as it is found in; None where no face is left."""
    track: dict[int, Box] = {}
    last: int | None = None
    for i, boxes in left.items():
        if last is None:
            same = next(iter(boxes), None)
        elif i - last > MOST_MISSED:
            break
        else:
            same = next((box for box in boxes if overlap(box, track[last]) > SAME), None)
        if same is not None:
            boxes.remove(same)
            track[i], last = same, i
    return track or None


def overlap(one: Box, other: Box) -> float:
    """What two boxes both cover, as a share of what either covers."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def runs(found: Sequence[Sequence[Box]]) -> list[Stretch]:
    """Runs of ``LEAST_RUN`` frames or more that have a face, the most probable one each, whosever it is."""
    kept, start = [], 0
    for i in range(len(found) + 1):
        if i < len(found) and found[i]:
            continue
        if i - start >= LEAST_RUN:
            kept.append(Stretch(start, np.asarray([boxes[0] for boxes in found[start:i]], dtype=np.float64)))
        start = i + 1
    return kept


def scenes(video: NDArray[np.uint8]) -> list[range]:
    """The stretches of frames (n, height, width, 3) between cuts, which are where hue, saturation and brightness change
    by 27 of 255 on average: PySceneDetect's ContentDetector as it is by default."""
    cv2: Any = require("cv2", "eval")
    height, width = video.shape[1:3]
    scale = max(1.0, width / SCENE_PX)
    size = round(width / scale), round(height / scale)
    edges, before = [0], None
    for i, frame in enumerate(video):
        small = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) if scale > 1 else frame
        now = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).astype(np.int32)
        if before is not None and np.abs(now - before).mean() >= CUT and i - edges[-1] >= SHORTEST_SCENE:
            edges.append(i)
        before = now
    return [range(start, end) for start, end in zip(edges, [*edges[1:], len(video)], strict=True)]


def crops(
    video: NDArray[np.uint8], stretch: Stretch, padding: float, smoothed: bool, side_px: int
) -> NDArray[np.uint8]:
    """(frames, side, side, 3) the face of each frame of a stretch: the box's longer side in width and more below, so
    that the chin stays in it while the mouth moves."""
    cv2: Any = require("cv2", "eval")
    low, high = stretch.boxes[:, :2], stretch.boxes[:, 2:]
    half, (x, y) = (high - low).max(axis=1) / 2, ((low + high) / 2).clip(0, video.shape[2:0:-1]).T
    if smoothed:
        half, x, y = (median_filter(one, SMOOTHED) for one in (half, x, y))
    cut = []
    for i, (size, across, down) in enumerate(zip(half, x, y, strict=True)):
        border = int(size * (1 + 2 * padding))
        frame = np.pad(
            video[stretch.first + i], ((border, border), (border, border), (0, 0)), constant_values=BORDER
        )  # fmt: skip
        top, bottom = int(down + border - size), int(down + border + size * (1 + 2 * padding))
        left, right = (int(across + border + sign * size * (1 + padding)) for sign in (-1, 1))
        cut.append(cv2.resize(frame[max(0, top) : bottom, max(0, left) : right], (side_px, side_px)))
    return np.stack(cut)


def median_filter(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """(n,) the median of the ``width`` values around each; beyond the ends there are zeros, as in scipy's medfilt."""
    padded = np.pad(values, width // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=-1)
