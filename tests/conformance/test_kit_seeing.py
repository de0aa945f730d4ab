"""The contracts of the evaluators that see with published networks, with a small one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import flow_kit
import pytest
import quality_kit
from seeing_kit import item_of, pictures, write_weights

from ovikit.evaluation.protocols import PromptItem
from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class TestIdentity(EvaluatorContract):
    component = "identity"

    @classmethod
    def files(cls, folder: Path) -> None:
        write_weights(folder)
        item_of(folder, pictures(1)[0])
        cls.item = PromptItem("0", "a picture", image=folder / "reference.png")


class TestFlowMagnitude(EvaluatorContract):
    component = "flow-magnitude"

    @pytest.fixture(autouse=True)
    def _small_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flow_kit.use_small_network(monkeypatch)

    @classmethod
    def files(cls, folder: Path) -> None:
        flow_kit.write_weights(folder)


class TestFlowMagnitudeOfficial(TestFlowMagnitude):
    options = {"rules": "official"}
    clip = replace(CLIP, frame_rate_hz=4.0, height_px=128, width_px=128)


class TestPictureQuality(EvaluatorContract):
    component = "picture-quality"
    clip = replace(CLIP, height_px=64, width_px=80)

    @pytest.fixture(autouse=True)
    def _small_networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        quality_kit.use_small_networks(monkeypatch)

    @classmethod
    def files(cls, folder: Path) -> None:
        quality_kit.write_weights(folder)


class TestPictureQualityOfMusiqAlone(TestPictureQuality):
    options = {"rules": "official", "marks": ["musiq"]}
