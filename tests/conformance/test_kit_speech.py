"""The contracts of the evaluators of speech and faces, with the models that packages carry."""

from __future__ import annotations

import importlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class TestSpeechRecognition(EvaluatorContract):
    component = "speech-recognition"
    requires = ("moonshine_voice", "silero_vad", "onnxruntime")
    changed = {"rules": "official"}
    item = PromptItem("0", "Somebody says <S>Good evening.<E>")


class TestSenseVoice(EvaluatorContract):
    component = "speech-recognition"
    options = {"recogniser": "sensevoice"}
    requires = ("sentencepiece", "silero_vad", "onnxruntime")
    changed = {"language": "en"}
    item = PromptItem("0", "Somebody says <S>Good evening.<E>")

    @pytest.fixture(autouse=True)
    def _small_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sensevoice_kit = importlib.import_module("sensevoice_kit")
        sensevoice_kit.use_small_network(monkeypatch)

    @classmethod
    def files(cls, folder: Path) -> None:
        sensevoice_kit = importlib.import_module("sensevoice_kit")
        sensevoice_kit.write_weights(folder)


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
