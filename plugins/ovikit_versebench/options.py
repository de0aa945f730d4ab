"""The options of the evaluators. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from ovikit.kernel.component import Config

Share = Annotated[float, Field(ge=0, le=1)]


class SoundSignalConfig(Config):
    """Options of ``sound-signal``."""

    clipped_from: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Magnitude, of full scale, from which on a sample counts as clipped."""
    silent_below_db: float = -50.0
    """Volume in decibels below full scale that counts as silence, in windows of 50 ms."""


class PictureSignalConfig(Config):
    """Options of ``picture-signal``."""

    frozen_below: Share = 0.001
    """Mean change of brightness (0 to 1) from one frame to the next that counts as none."""
    black_below: Share = 0.06
    """Brightness (0 to 1) that 98 of 100 pixels of a black frame do not exceed."""


class MotionConfig(Config):
    """Options of ``motion``."""

    every_s: PositiveFloat = 0.25
    """Seconds between the pairs of neighbouring frames that are compared."""


class AgreementConfig(Config):
    """Options of ``agreement``."""

    within_s: Annotated[float, Field(gt=0, le=5)] = 1.0
    """Largest offset that is looked for, to either side."""
    least: Share = 0.6
    """Least correlation, at the best offset, of clips whose offset is told: among so many offsets one fits somewhat by
    chance."""
