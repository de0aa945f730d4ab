"""Every positional scheme keeps the contract of positions."""

from __future__ import annotations

from ovikit.testing import PositionsContract


class TestScaledAudio(PositionsContract):
    component = "scaled-audio"
    options = {"ratio": 1 / 3}
    aligned = "start"


class TestNative(PositionsContract):
    component = "native"
