"""The evaluators of speech and faces, as the plugin registers them. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit_versebench.speech.options import (
    FacesConfig,
    HearingConfig,
    SpeechBySpeakerConfig,
    SpeechPresenceConfig,
    SpeechQualityConfig,
    SpeechRecognitionConfig,
)

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec
    from ovikit_versebench.speech.hearing import Recogniser


def _recogniser(config: HearingConfig, assets: Assets) -> Recogniser:
    if config.recogniser == "whisper":
        from ovikit_versebench.speech.whisper import Whisper

        return Whisper(assets, config.weights or "whisper-large-v3", config.language)
    if config.recogniser == "sensevoice":
        from ovikit_versebench.speech.sensevoice import FOLDER, SenseVoice

        return SenseVoice(assets, config.weights or FOLDER, config.language)
    from ovikit_versebench.speech.moonshine import Moonshine

    return Moonshine()


def _recognition(config: SpeechRecognitionConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.speech.recognition import SpeechRecognition

    return SpeechRecognition(_recogniser(config, assets), config.rules)


def _by_speaker(config: SpeechBySpeakerConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.speech.dialogue import SpeechBySpeaker

    return SpeechBySpeaker(_recogniser(config, assets), config.least)


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
    Component("speech-recognition", SpeechRecognitionConfig, _recognition, "WER: is it said what is to be said"),
    Component("speech-by-speaker", SpeechBySpeakerConfig, _by_speaker, "cpCER: does each speaker say what is theirs"),
    Component("speech-quality", SpeechQualityConfig, _quality, "DNSMOS: how natural speech sounds"),
    Component("speech-presence", SpeechPresenceConfig, _presence, "for how much of the time somebody speaks"),
    Component("faces", FacesConfig, _faces, "in how much of the picture there is a face, how large, how steady"),
)
