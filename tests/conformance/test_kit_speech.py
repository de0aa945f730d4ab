"""The contracts of the evaluators of speech and faces, with the models that packages carry."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class TestSpeechRecognition(EvaluatorContract):
    component = "speech-recognition"
    requires = ("moonshine_voice", "silero_vad", "onnxruntime")
    changed = {"rules": "official"}
    item = PromptItem("0", "Somebody says <S>Good evening.<E>")


@pytest.mark.skipif(find_spec("resemblyzer") is None, reason="resemblyzer, which cannot be imported without librosa")
class TestSpeechBySpeaker(EvaluatorContract):
    component = "speech-by-speaker"
    requires = ("moonshine_voice", "silero_vad", "onnxruntime")
    changed = {"least": 0.8}
    item = PromptItem("0", "Somebody says <S>Good evening.<E>")


class TestSpeechQuality(EvaluatorContract):
    component = "speech-quality"
    requires = ("onnxruntime",)
    clip = replace(CLIP, duration_s=0.5)


class TestSpeechPresence(EvaluatorContract):
    component = "speech-presence"
    requires = ("silero_vad",)
    changed = {"least": 0.9}


class TestFaces(EvaluatorContract):
    component = "faces"
    requires = ("ai_edge_litert", "cv2")
    changed = {"every_s": 1.0, "least": 0.9}
