"""One look through a file before clips are cut from it: where its scenes change, and which margins stay black."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ovikit.data.video import WHOLE, Box, opened, upright
from ovikit.extras import require

Detector = Literal["content", "adaptive", "none"]
VERSION = 1
SIDE_PX = 256
"""Longer side of the frames that cuts are looked for in: PySceneDetect shrinks them to about as much itself."""
MARGIN_EVERY_S = 0.5
DARK = 28
"""Luminance (of 255) that rows and columns of a margin do not exceed, but for one pixel in a hundred."""
MOST_CUT = 0.45
"""Of each side: a file that is darker than that is dark, and has no margins."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look through a file found.

    scenes: (start, end) in seconds from the first frame
    box:    the picture without its margins
    """

    scenes: tuple[tuple[float, float], ...]
    box: Box


def look_through(
    path: Path,
    origin_s: float,
    duration_s: float,
    detector: Detector,
    threshold: float | None,
    shortest_s: float,
    margins: bool,
) -> Look:
    """The scenes and margins of a video of ``duration_s`` seconds. UserError for a file that cannot be decoded."""
    if detector == "none" and not margins:
        return Look(((0.0, duration_s),), WHOLE)
    seen = _Margins()
    times: list[float] = []
    cuts: list[int] = []
    with opened(path) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, VideoStream)  # the probe has seen it
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        finder = None if detector == "none" else _Cuts(detector, threshold, rate, shortest_s)
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            times.append(frame.time - origin_s)
            if finder is not None:
                cuts += finder.add(frame)
            if margins:
                seen.add(frame, times[-1])
    if finder is not None:
        cuts += finder.end()
    edges = [0.0, *sorted({times[cut] for cut in cuts if 0 < cut < len(times)}), duration_s]
    scenes = tuple((start, end) for start, end in pairwise(edges) if end > start)
    return Look(scenes, seen.box() if margins else WHOLE)


class _Cuts:
    """PySceneDetect, told of frames by their number; their time stamps are ours."""

    def __init__(self, detector: Detector, threshold: float | None, rate: float, shortest_s: float) -> None:
        self._library: ModuleType = require("scenedetect", "data")
        kinds: Any = require("scenedetect.detectors", "data")
        shortest = max(1, round(shortest_s * rate))
        self._detector: Any
        if detector == "content":
            self._detector = kinds.ContentDetector(threshold=threshold or 27.0, min_scene_len=shortest)
        else:
            self._detector = kinds.AdaptiveDetector(adaptive_threshold=threshold or 3.0, min_scene_len=shortest)
        self._rate, self._frames = rate, 0

    def add(self, frame: VideoFrame) -> list[int]:
        scale = min(1.0, SIDE_PX / max(frame.width, frame.height))
        small = frame.reformat(
            max(2, round(frame.width * scale)), max(2, round(frame.height * scale)), format="bgr24"
        ).to_ndarray()
        found = self._detector.process_frame(self._code(), small)
        self._frames += 1
        return [cut.frame_num for cut in found]

    def end(self) -> list[int]:
        if self._frames == 0:
            return []
        self._frames -= 1
        return [cut.frame_num for cut in self._detector.post_process(self._code())]

    def _code(self) -> Any:
        return self._library.FrameTimecode(self._frames, fps=self._rate)


class _Margins:
    """The brightest that each row and column has been."""

    def __init__(self) -> None:
        self._rows: NDArray[np.float64] | None = None
        self._columns: NDArray[np.float64] | None = None
        self._next_s = 0.0

    def add(self, frame: VideoFrame, time_s: float) -> None:
        if time_s < self._next_s:
            return
        self._next_s = time_s + MARGIN_EVERY_S
        grey = upright(frame, "gray")
        rows, columns = np.percentile(grey, 99, axis=1), np.percentile(grey, 99, axis=0)
        if self._rows is None or self._columns is None or len(self._rows) != len(rows):
            self._rows, self._columns = rows, columns
        else:
            self._rows, self._columns = np.maximum(self._rows, rows), np.maximum(self._columns, columns)

    def box(self) -> Box:
        if self._rows is None or self._columns is None:
            return WHOLE
        (top, bottom), (left, right) = _bright(self._rows), _bright(self._columns)
        found = Box(top, left, bottom, right)
        return WHOLE if max(top, left, 1 - bottom, 1 - right) > MOST_CUT else found


def _bright(brightest: NDArray[np.float64]) -> tuple[float, float]:
    """Where the first and the last row that is not dark lie, in shares of all; the whole where all are dark."""
    found = np.flatnonzero(brightest > DARK)
    return (float(found[0]) / len(brightest), float(found[-1] + 1) / len(brightest)) if len(found) else (0.0, 1.0)
