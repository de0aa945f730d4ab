"""The evaluators of speech and faces, as the plugin registers them. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit_versebench.speech.options import (
    FacesConfig,
    SpeechPresenceConfig,
    SpeechQualityConfig,
    SpeechRecognitionConfig,
)

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec


def _recognition(config: SpeechRecognitionConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.speech.recognition import SpeechRecognition

    return SpeechRecognition(config.rules)


def _quality(config: SpeechQualityConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.speech.quality import SpeechQuality

    return SpeechQuality()


def _presence(config: SpeechPresenceConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.speech.presence import SpeechPresence

    return SpeechPresence(config.least)


def _faces(config: FacesConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.speech.faces import Faces

    return Faces(config.every_s, config.least)


COMPONENTS = (
    Component("speech-recognition", SpeechRecognitionConfig, _recognition, "WER, cpCER: is it said what is to be said"),
    Component("speech-quality", SpeechQualityConfig, _quality, "DNSMOS: how natural speech sounds"),
    Component("speech-presence", SpeechPresenceConfig, _presence, "for how much of the time somebody speaks"),
    Component("faces", FacesConfig, _faces, "in how much of the picture there is a face, how large, how steady"),
)
