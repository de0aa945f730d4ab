"""The contracts of the evaluators of synchrony, with small networks under the published names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sync_kit import use_small_networks, write_small_weights

from ovikit.testing import EvaluatorContract
from ovikit.testing.clips import CLIP


class _Small(EvaluatorContract):
    clip = replace(CLIP, duration_s=5.0, frame_rate_hz=25.0)

    @pytest.fixture(autouse=True)
    def _small_networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_small_networks(monkeypatch)

    @classmethod
    def files(cls, folder: Path) -> None:
        write_small_weights(folder)


class TestAvOffset(_Small):
    component = "av-offset"


class TestAvOffsetOfficial(_Small):
    component = "av-offset"
    options = {"rules": "official"}


class TestDesync(_Small):
    component = "desync"


class TestLipSync(_Small):
    component = "lip-sync"
    requires = ("cv2",)
    options = {"least_track_frames": 10, "least_face_px": 40.0}
    clip = replace(CLIP, duration_s=1.2, frame_rate_hz=25.0, height_px=128, width_px=128)


class TestLipSyncOfficial(TestLipSync):
    options = {"rules": "official"}
    clip = replace(CLIP, duration_s=2.4, frame_rate_hz=25.0, height_px=128, width_px=128)
