"""Evaluators of the toy world: they watch and listen to finished clips, and know the truth only from the prompt.

Each feature comes from the picture alone or from the sound alone, so that exchanging sounds between clips measures
what chance would score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.types import Clip
from ovikit_toyworld.detect import audio_onsets, brightness, colour_of, pitch_of, visual_onsets
from ovikit_toyworld.story import COLOURS

VERSION = "1"
_BLANK = 2.0
_SILENT = 1e-3


def _eye(clip: Clip) -> NDArray[np.uint8] | str:
    """The frames, or why nothing can be seen in them."""
    if clip.video is None:
        return "no picture"
    video = clip.video.numpy()
    if float(video.std()) < _BLANK:
        return "the picture is blank"
    return video


def _ear(clip: Clip) -> NDArray[np.float64] | str:
    """The samples, or why nothing can be heard in them."""
    if clip.audio is None:
        return "no sound"
    if not bool(torch.isfinite(clip.audio).all()):
        return "the sound has NaN or Inf"
    if clip.audio.numel() == 0 or float(clip.audio.abs().max()) < _SILENT:
        return "the sound is silent"
    return clip.audio.numpy().astype(np.float64)


def _onsets(clip: Clip) -> dict[str, Any]:
    """What both the eye and the ear find of events, and why where they cannot."""
    video, audio = _eye(clip), _ear(clip)
    return {
        "visual_onsets_s": None if isinstance(video, str) else _rounded(visual_onsets(video, clip.frame_rate_hz)),
        "audio_onsets_s": None if isinstance(audio, str) else _rounded(audio_onsets(audio, clip.sample_rate_hz)),
        "unseen": video if isinstance(video, str) else None,
        "unheard": audio if isinstance(audio, str) else None,
    }


def _rounded(times: Sequence[float]) -> list[float]:
    return [round(time, 4) for time in times]


def _refusal(video: Mapping[str, Any], audio: Mapping[str, Any]) -> Unscored | None:
    reason = video["unseen"] or audio["unheard"]
    return Unscored(reason) if reason else None


def match_onsets(seen: Sequence[float], heard: Sequence[float], tolerance_s: float) -> list[tuple[float, float]]:
    """Pairs of one onset of each side within the tolerance, as many as possible; both sides in rising order.

    Two sorted lists and one tolerance: taking the earliest that fits is a largest matching.
    """
    pairs, i, j = [], 0, 0
    while i < len(seen) and j < len(heard):
        if abs(seen[i] - heard[j]) <= tolerance_s:
            pairs.append((seen[i], heard[j]))
            i, j = i + 1, j + 1
        elif seen[i] < heard[j]:
            i += 1
        else:
            j += 1
    return pairs


class ToyOnsets:
    """Whether sights and sounds happen at the same moments."""

    version = VERSION

    def __init__(self, tolerance_s: float) -> None:
        self.tolerance_s = tolerance_s
        within = f"{1000 * tolerance_s:.0f} ms"
        self.metrics = (
            MetricSpec(
                "onset_f1", "higher", "", (0.0, 1.0), f"{VERSION}/{tolerance_s}",
                f"F1 of picture onsets and sound onsets, matched one to one within {within}",
            ),
            MetricSpec(
                "onset_offset_ms", "lower", "ms", (0.0, 1000.0 * tolerance_s), f"{VERSION}/{tolerance_s}",
                "mean absolute time between the onsets of a matched pair",
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        found = _onsets(clip)
        if found["visual_onsets_s"] is not None and clip.video is not None:
            found["brightness"] = [round(float(level), 4) for level in brightness(clip.video.numpy())]
        return found

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        refusal = _refusal(video, audio)
        if refusal:
            return {metric.name: refusal for metric in self.metrics}
        seen, heard = video["visual_onsets_s"], audio["audio_onsets_s"]
        if not seen and not heard:
            nothing = Unscored("nothing happens in picture or sound")
            return {metric.name: nothing for metric in self.metrics}
        pairs = match_onsets(seen, heard, self.tolerance_s)
        apart = [abs(a - b) for a, b in pairs]
        return {
            "onset_f1": 2.0 * len(pairs) / (len(seen) + len(heard)),
            "onset_offset_ms": 1000.0 * math.fsum(apart) / len(apart) if apart else Unscored("no onsets match"),
        }


class ToyColourPitch:
    """Whether the pitch that is heard belongs to the colour that is seen."""

    version = VERSION
    metrics = (
        MetricSpec(
            "colour_pitch", "higher", "", (0.0, 1.0), VERSION, "share of clips whose pitch is that of the ball's colour"
        ),
    )

    def features(self, clip: Clip) -> dict[str, Any]:
        video, audio = _eye(clip), _ear(clip)
        heard = None
        if not isinstance(audio, str):
            heard = pitch_of(audio, clip.sample_rate_hz, audio_onsets(audio, clip.sample_rate_hz))
        colour = None if isinstance(video, str) else colour_of(video)
        return {
            "colour": colour,
            "pitch_hz": None if heard is None else round(heard[0], 1),
            "pitch": None if heard is None else heard[1],
            "unseen": video if isinstance(video, str) else "no coloured ball is seen" if colour is None else None,
            "unheard": audio if isinstance(audio, str) else "no tone starts" if heard is None else None,
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        refusal = _refusal(video, audio)
        agrees = refusal or float(audio["pitch"] is not None and COLOURS[audio["pitch"]] == video["colour"])
        return {"colour_pitch": agrees}


class ToyCount:
    """Whether as many events are seen, and heard, as the prompt asks for."""

    version = VERSION
    metrics = (
        MetricSpec(
            "count_seen", "higher", "", (0.0, 1.0), VERSION, "share of clips that show the asked number of events"
        ),
        MetricSpec(
            "count_heard", "higher", "", (0.0, 1.0), VERSION, "share of clips that sound the asked number of tones"
        ),
    )

    def features(self, clip: Clip) -> dict[str, Any]:
        return _onsets(clip)

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if "count" not in item.truth:
            unknown = Unscored("the prompt's number of events is not known")
            return {metric.name: unknown for metric in self.metrics}
        asked = item.truth["count"]
        return {
            "count_seen": _counted(video["visual_onsets_s"], asked, video["unseen"]),
            "count_heard": _counted(audio["audio_onsets_s"], asked, audio["unheard"]),
        }


def _counted(onsets: Sequence[float] | None, asked: int, reason: str | None) -> float | Unscored:
    return Unscored(reason or "not measured") if onsets is None else float(len(onsets) == asked)
