"""Every part of the toy world keeps the contract of its kind."""

from __future__ import annotations

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import DatasetContract, EvaluatorContract
from ovikit.testing.clips import beating_clip
from ovikit.types import Clip, ClipSpec

CLIP = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)


class TestToyWorld(DatasetContract):
    component = "toyworld"
    options = {"clips": 4}  # noqa: RUF012
    changed = {"seed": 1, "clips": 5, "kinds": ["flash"]}  # noqa: RUF012
    clip = CLIP


class TestToyOnsets(EvaluatorContract):
    component = "toy-onsets"
    clip = CLIP
    judged = ("onset_f1",)

    @classmethod
    def better(cls) -> Clip:
        return beating_clip(CLIP, beats=3)

    @classmethod
    def worse(cls) -> Clip:
        return beating_clip(CLIP, beats=3, delay_s=0.3)


class TestToyColourPitch(EvaluatorContract):
    component = "toy-colour-pitch"
    clip = CLIP


class TestToyCount(EvaluatorContract):
    component = "toy-count"
    clip = CLIP
    item = PromptItem("0", "three flashes", {"count": 3})
