"""The contracts of the evaluators of speech and faces, with the models that packages carry."""

from __future__ import annotations

from dataclasses import replace

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class TestSpeechRecognition(EvaluatorContract):
    component = "speech-recognition"
    requires = ("moonshine_voice",)
    changed = {"rules": "official"}
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
