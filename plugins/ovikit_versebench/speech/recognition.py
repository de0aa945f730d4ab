"""Whether it is said what the prompt has said: errors of a transcript.

Verse-Bench's tool hears with SenseVoice, which no package carries and transformers does not have. The rules of
comparison are the tool's under ``official``, its recogniser is not.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ovikit.evaluation.needs import need_package
from ovikit.evaluation.protocols import MetricSpec, Need, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.speech.hearing import SOUND_HZ, Recogniser, why_unheard
from ovikit_versebench.speech.options import Rules
from ovikit_versebench.speech.packages import told
from ovikit_versebench.speech.presence import need as need_voices
from ovikit_versebench.speech.presence import speech_probabilities
from ovikit_versebench.speech.text import error_rate, script_of, spoken_in, units

VERSION = "3"
LEAST_SPEECH_S = 0.25
PUNCTUATION = frozenset(string.punctuation)
NOBODY = "nobody speaks in its prompt"


class SpeechRecognition:
    """``wer`` of an item's speech: errors by the number of words that were to be said.

    The mean over items, as the published tool has it, and not the errors of a set by its words: each prompt counts
    alike, and results are paired by item.
    """

    view = View(sample_rate_hz=SOUND_HZ, modalities=("audio",))

    def __init__(self, recogniser: Recogniser, rules: Rules) -> None:
        self._hear, self._official = recogniser, rules == "official"
        self.needs: tuple[Need, ...] = (*recogniser.needs, need_voices())
        if not self._official:
            self.needs += (normaliser(),)
        self.version = f"{VERSION}/{recogniser.version}/{told('silero-vad')}"
        how = (
            "words as they are written, but for capitals"
            if self._official
            else "normalised words, characters of scripts without spaces"
        )
        self.metrics = (
            MetricSpec(
                "wer", "lower", "", (0.0, math.inf), f"{self.version}/{rules}",
                f"errors by the number of words that were to be said, mean over items; {how}",
            ),
        )  # fmt: skip

    def leaves_out(self, item: PromptItem) -> str | None:
        return None if speech_of(item) else NOBODY

    def features(self, clip: Clip) -> dict[str, Any]:
        if (why := why_unheard(clip.audio)) is not None or clip.audio is None:
            return {"why": why}
        return {"why": None, "text": self._hear(clip.audio) if anybody_speaks(clip.audio) else ""}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        return {"wer": Unscored(audio["why"]) if audio["why"] is not None else self._errors(audio["text"], item)}

    def _errors(self, heard: str, item: PromptItem) -> float | Unscored:
        said = speech_of(item)
        if (why := self._hear.not_known(said)) is not None:
            return Unscored(why)
        script = script_of(said)
        cut = as_written if self._official else partial(units, script=script)
        wanted, found = cut(said), cut(heard)
        return error_rate(found, wanted) if wanted else Unscored("what is to be said has no words")


def normaliser() -> Need:
    """The package with the normaliser of texts."""
    where = "https://github.com/huggingface/transformers"
    return need_package("transformers", "Apache-2.0", where, "pip install 'ovikit[ovi]'")


def speech_of(item: PromptItem) -> str:
    """What is to be said: as the set has it, else as the prompt's tags have."""
    if "speech" in item.truth:
        return str(item.truth["speech"] or "").strip()
    return " ".join(spoken_in(item.prompt))


def as_written(text: str) -> list[str]:
    """Words between spaces, in small letters, with their punctuation; a text of nothing but ASCII's has none."""
    return [] if set(text) <= PUNCTUATION else text.lower().split()


def anybody_speaks(sound: Tensor) -> bool:
    """Whether there is a quarter of a second of speech at least. Recognisers hear words in noise and music, too: where
    nobody speaks, nothing was said."""
    probabilities, step_s = speech_probabilities(sound)
    return sum(one >= 0.5 for one in probabilities) * step_s >= LEAST_SPEECH_S
