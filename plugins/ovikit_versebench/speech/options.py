"""The options of the evaluators of speech and faces. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]


class SpeechRecognitionConfig(Config):
    """Options of ``speech-recognition``."""

    rules: Rules = "fixed"
    """fixed: capitals and punctuation do not count, and texts without spaces between words are compared by character;
    official: words as they are written, whatever the script."""


class SpeechQualityConfig(Config):
    """Options of ``speech-quality``."""


class SpeechPresenceConfig(Config):
    """Options of ``speech-presence``."""

    least: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability of speech from which on 32 ms of sound count as speech."""


class FacesConfig(Config):
    """Options of ``faces``."""

    every_s: PositiveFloat = 0.2
    """Seconds between the frames that are looked at."""
    least: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which on a face counts."""
