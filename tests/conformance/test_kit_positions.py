"""Every positional scheme keeps the contract of positions."""

from __future__ import annotations

from ovikit.testing import PositionsContract


class TestScaledAudio(PositionsContract):
    component = "scaled-audio"
    options = {"ratio": 1 / 3}
    aligned = "start"


class TestNative(PositionsContract):
    component = "native"


class TestScaledVideo(PositionsContract):
    component = "scaled-video"
    options = {"ratio": 3.0}
    aligned = "start"


class TestScaledVideoFromItsFirstFrame(PositionsContract):
    component = "scaled-video"
    options = {"ratio": 3.0, "first_step_shift": 0.75}


class TestSeconds(PositionsContract):
    component = "seconds"
    aligned = "midpoint"


class TestInterleaved(PositionsContract):
    component = "interleaved"
    options = {"ratio": 1 / 3}
    aligned = "start"


class TestNone(PositionsContract):
    component = "none"
