"""Whether it is said what the prompt has said: errors of a transcript.

The recogniser is Moonshine tiny (English), which the package moonshine-voice 0.0.48 carries. Verse-Bench's tool uses
SenseVoice, which no package carries; the rules of comparison are the tool's under ``official``, its recogniser is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.speech.options import Rules
from ovikit_versebench.speech.packages import carried, told
from ovikit_versebench.speech.text import MOST_SPEAKERS, characters, cpcer, error_rate, spoken_in, units

VERSION = "1"
SOUND_HZ = 16000
LEAST_S = 0.3
QUIETEST = 1e-3


class SpeechRecognition:
    """``wer`` of an item's speech, and ``cpcer`` by speaker."""

    view = View(sample_rate_hz=SOUND_HZ, modalities=("audio",))

    def __init__(self, rules: Rules) -> None:
        self._official = rules == "official"
        self.needs = (carried("moonshine_voice", "MIT", "https://pypi.org/project/moonshine-voice/0.0.48"),)
        self.version = f"{VERSION}/moonshine-tiny-en/{told('moonshine-voice')}"
        how = (
            "words as they are written" if self._official else "normalised words, characters of scripts without spaces"
        )
        self.metrics = (
            MetricSpec(
                "wer", "lower", "", (0.0, math.inf), f"{self.version}/{rules}",
                f"errors by the number of words that were to be said, mean over items; {how}",
            ),
            MetricSpec(
                "cpcer", "lower", "", (0.0, math.inf), self.version,
                "errors by character, of what each speaker says, speakers matched in the best way",
            ),
        )  # fmt: skip

    @cached_property
    def _recogniser(self) -> Any:
        from moonshine_voice import ModelArch, Transcriber, get_model_path

        return Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY)

    def leaves_out(self, item: PromptItem) -> str | None:
        return None if speech_of(item) else "nobody speaks in its prompt"

    def features(self, clip: Clip) -> dict[str, Any]:
        sound = clip.audio
        if sound is None or len(sound) < LEAST_S * SOUND_HZ:
            return {"why": "no sound" if sound is None or len(sound) == 0 else f"it is shorter than {LEAST_S:g} s"}
        if not bool(torch.isfinite(sound).all()):
            return {"why": "the sound has NaN or Inf"}
        if float(sound.abs().max()) < QUIETEST:
            return {"why": "the sound is silent"}
        lines = self._recogniser.transcribe_without_streaming(sound.tolist(), SOUND_HZ).lines
        turns = [
            {"speaker": int(one.speaker_index) if one.has_speaker_id else 0, "text": one.text.strip()} for one in lines
        ]
        return {"why": None, "turns": turns}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if audio["why"] is not None:
            return {metric.name: Unscored(audio["why"]) for metric in self.metrics}
        heard = " ".join(turn["text"] for turn in audio["turns"])
        wanted = speech_of(item)
        pair = (heard.split(), wanted.split()) if self._official else (units(heard), units(wanted))
        none = Unscored("what is to be said has no words")
        return {
            "wer": error_rate(*pair) if pair[1] else none,
            "cpcer": self._by_speaker(audio["turns"], item) if characters(wanted) else none,
        }

    def _by_speaker(self, turns: list[dict[str, Any]], item: PromptItem) -> float | Unscored:
        heard: dict[int, str] = {}
        for turn in turns:
            heard[turn["speaker"]] = f"{heard.get(turn['speaker'], '')} {turn['text']}"
        wanted: dict[str, str] = {}
        for turn in item.truth.get("turns") or [{"speaker": "", "text": speech_of(item)}]:
            wanted[turn["speaker"]] = f"{wanted.get(turn['speaker'], '')} {turn['text']}"
        if max(len(heard), len(wanted)) > MOST_SPEAKERS:
            return Unscored(f"there are more than {MOST_SPEAKERS} speakers")
        return cpcer(list(heard.values()), list(wanted.values()))


def speech_of(item: PromptItem) -> str:
    """What is to be said: as the set has it, else as the prompt's tags have."""
    return str(item.truth["speech"]).strip() if "speech" in item.truth else spoken_in(item.prompt)
