"""The options of the filters: each has its threshold. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from ovikit.kernel.component import Config

Share = Annotated[float, Field(ge=0, le=1)]
WithoutSound = Literal["drop", "keep"]


class MotionConfig(Config):
    """Options of ``motion``."""

    least: NonNegativeFloat = 0.02
    """Least mean speed of the picture's content, in picture heights per second."""
    most: PositiveFloat | None = None
    """Largest speed; null: any."""
    every_s: PositiveFloat = 0.5
    """Seconds between the pairs of neighbouring frames that are compared."""


class LoudnessConfig(Config):
    """Options of ``loudness``."""

    least_db: float = -60.0
    """Least mean volume in decibels below full scale; the paper's is -60."""


class SilenceConfig(Config):
    """Options of ``silence``."""

    most: Share = 0.5
    """Largest share of the clip that may be silent."""
    below_db: float = -50.0
    """Volume in decibels below full scale that counts as silence, in windows of 50 ms."""


class BlackConfig(Config):
    """Options of ``black``."""

    most: Share = 0.1
    """Largest share of frames that may be black."""
    below: Share = 0.06
    """Brightness (0 to 1) that 98 of 100 pixels of a black frame do not exceed."""


class DuplicateConfig(Config):
    """Options of ``duplicate``."""

    bits: NonNegativeInt = 12
    """Most bits, of 256 that tell of four frames, in which two clips are the same picture."""


class SyncConfig(Config):
    """Options of ``sync``."""

    model: str = Field(min_length=1)
    """Weights of SyncNet (its ``syncnet_v2.model``, or the same tensors as safetensors)."""
    most_offset: NonNegativeInt = 3
    """Largest offset between lips and sound, in frames of 40 ms; the paper's is 3."""
    least_confidence: NonNegativeFloat = 1.5
    """Least confidence; the paper's is 1.5. It is meant for speech: leave this filter out where nobody speaks."""


class AestheticConfig(Config):
    """Options of ``aesthetic``."""

    model: str = Field(min_length=1)
    """Folder of a CLIP model in the layout of transformers."""
    head: str = Field(min_length=1)
    """Weights of the linear layer from CLIP's image embedding to a score (``weight``, ``bias``), as safetensors."""
    least: float = 4.5
    """Least mean score of the frames looked at."""
    frames: Annotated[int, Field(ge=1)] = 3
    """How many frames are looked at, evenly spaced."""
