"""The contracts of the evaluators that bind picture and sound, with a small network under the published name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from binding_kit import use_small_network, write_small_weights

from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class TestImageBind(EvaluatorContract):
    component = "imagebind"
    clip = replace(CLIP, duration_s=3.0, height_px=28, width_px=42)

    @pytest.fixture(autouse=True)
    def _small_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_small_network(monkeypatch)

    @classmethod
    def files(cls, folder: Path) -> None:
        write_small_weights(folder)


class TestImageBindOfficial(TestImageBind):
    options = {"rules": "official", "first_s": 4.0}
