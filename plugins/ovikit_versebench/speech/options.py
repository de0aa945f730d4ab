"""The options of the evaluators of speech and faces. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]


class HearingConfig(Config):
    """Which recogniser of speech hears."""

    recogniser: Literal["moonshine-tiny", "whisper", "sensevoice"] = "moonshine-tiny"
    """moonshine-tiny: English, carried by a package; from a folder of the user's, whisper: many languages, sensevoice:
    Chinese, Cantonese, English, Japanese and Korean, as Verse-Bench's tool hears."""
    weights: str | None = None
    """Folder of Whisper's, in transformers' layout, or of SenseVoice's: whisper-large-v3 or SenseVoiceSmall by default.
    Its hash is part of the metric's version."""
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """What Whisper or SenseVoice is told is spoken, as "en"; by default they decide by themselves."""


class SpeechRecognitionConfig(HearingConfig):
    """Options of ``speech-recognition``."""

    rules: Rules = "fixed"
    """fixed: capitals, punctuation and spellings of numbers do not count, and texts without spaces between words are
    compared by character; official: words as they are written but for capitals, whatever the script."""


class SpeechBySpeakerConfig(HearingConfig):
    """Options of ``speech-by-speaker``."""

    least: Annotated[float, Field(gt=0, lt=1)] = 0.65
    """Cosine from which on two voices are one speaker's."""


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
    least: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Probability from which on a face counts."""
