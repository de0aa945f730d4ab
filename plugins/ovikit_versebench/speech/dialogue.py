"""Whether each speaker says what they are to say: cpCER, as the evaluations of MOVA have it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.speech.hearing import SOUND_HZ, Recogniser, why_unheard
from ovikit_versebench.speech.packages import told
from ovikit_versebench.speech.presence import need as need_voices
from ovikit_versebench.speech.recognition import NOBODY, normaliser, speech_of
from ovikit_versebench.speech.text import MOST_SPEAKERS, characters, cpcer, script_of, spoken_in
from ovikit_versebench.speech.voices import need_encoder, turns

VERSION = "1"
Turn = tuple[str, str]
"""Who says something, and what."""


class SpeechBySpeaker:
    """``cpcer`` of items that tell who says what, be it that one speaker says all."""

    view = View(sample_rate_hz=SOUND_HZ, modalities=("audio",))

    def __init__(self, recogniser: Recogniser, least: float) -> None:
        self._hear, self._least = recogniser, least
        self.needs = (*recogniser.needs, need_voices(), need_encoder(), normaliser())
        self.version = f"{VERSION}/{recogniser.version}/{told('silero-vad', 'resemblyzer')}/{least}"
        self.metrics = (
            MetricSpec(
                "cpcer", "lower", "", (0.0, math.inf), self.version,
                "errors by character of what each speaker says, speakers matched in the best way",
            ),
        )  # fmt: skip

    def leaves_out(self, item: PromptItem) -> str | None:
        found = turns_of(item)
        return found if isinstance(found, str) else None

    def features(self, clip: Clip) -> dict[str, Any]:
        sound = clip.audio
        if (why := why_unheard(sound)) is not None or sound is None:
            return {"why": why}
        found = turns(sound, self._least)
        return {"why": None, "turns": [[one.speaker, self._hear(sound[one.start : one.stop])] for one in found]}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        return {"cpcer": Unscored(audio["why"]) if audio["why"] is not None else self._errors(audio["turns"], item)}

    def _errors(self, heard: list[tuple[int, str]], item: PromptItem) -> float | Unscored:
        asked = turns_of(item)
        if isinstance(asked, str):
            return Unscored(asked, asked=False)
        whole = " ".join(text for _, text in asked)
        if (why := self._hear.not_known(whole)) is not None:
            return Unscored(why)
        ours, theirs = by_speaker(heard), by_speaker(asked)
        if max(len(ours), len(theirs)) > MOST_SPEAKERS:
            return Unscored(f"there are more than {MOST_SPEAKERS} speakers")
        script = script_of(whole)
        wanted = [characters(one, script) for one in theirs]
        if not any(wanted):
            return Unscored("what is to be said has no words")
        return cpcer([characters(one, script) for one in ours], wanted)


def by_speaker(found: Iterable[tuple[Any, str]]) -> list[str]:
    """What each speaker says, one turn after the other."""
    said: dict[Any, list[str]] = {}
    for speaker, text in found:
        said.setdefault(speaker, []).append(text)
    return [" ".join(parts) for parts in said.values()]


def turns_of(item: PromptItem) -> list[Turn] | str:
    """Who is to say what: the set's ``turns`` (a list of ``speaker`` and ``text``, or that as JSON), or one speaker's
    all, where the set has ``speech`` or the prompt one pair of tags; else why it is not known."""
    if told := item.truth.get("turns"):
        return _read(told)
    if not (said := speech_of(item)):
        return NOBODY
    if "speech" not in item.truth and len(spoken_in(item.prompt)) > 1:
        return "its prompt does not tell who says what"
    return [("", said)]


def _read(told: Any) -> list[Turn] | str:
    try:
        rows = json.loads(told) if isinstance(told, str) else told
        return [(str(one["speaker"]), str(one["text"])) for one in rows]
    except (ValueError, LookupError, TypeError):
        return "the set's turns are no list of speakers and texts"
