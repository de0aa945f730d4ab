"""The contracts of the evaluators that listen, with small networks under the published names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from listening_kit import use_small_networks, write_clap, write_small_weights

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class _Small(EvaluatorContract):
    item = PromptItem("0", "rain", {"audio_prompts": ["rain", "dogs bark"], "subset": "set2"})

    @pytest.fixture(autouse=True)
    def _small_networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_small_networks(monkeypatch)

    @classmethod
    def files(cls, folder: Path) -> None:
        write_small_weights(folder)


class TestPanns(_Small):
    component = "panns"
    changed = {"sample_rate_hz": 32000, "first_s": 1.0}


class TestPannsOfficial(_Small):
    component = "panns"
    options = {"rules": "official", "sample_rate_hz": 32000}
    clip = replace(CLIP, sample_rate_hz=32000)


class TestPasst(_Small):
    component = "passt"
    clip = replace(CLIP, sample_rate_hz=32000)


class TestPasstOfficial(TestPasst):
    options = {"rules": "official"}


class TestClap(_Small):
    component = "clap"
    requires = ("transformers",)
    clip = replace(CLIP, sample_rate_hz=48000)

    @classmethod
    def files(cls, folder: Path) -> None:
        write_clap(folder / "clap-htsat-fused")


class TestClapOfficial(TestClap):
    options = {"rules": "official"}


class TestAudioAesthetics(_Small):
    component = "audio-aesthetics"


class TestAudioAestheticsOfficial(_Small):
    component = "audio-aesthetics"
    options = {"rules": "official"}
