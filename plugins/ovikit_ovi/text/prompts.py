"""The prompt format of the released models, and a linter for it. Needs neither torch nor a tokenizer.

What is said stands between ``<S>`` and ``<E>``; what is heard besides, in an audio caption: ``<AUDCAP>...<ENDAUDCAP>``
("tags", the 720 x 720 model), or ``Audio: ...`` at the prompt's end ("suffix", the 960 x 960 models). The released
code turns one format into the other with two regular expressions; on prompts in order, so does this, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ovikit_ovi.text import rules
from ovikit_ovi.text.notes import SEVERITIES, Note, excerpt
from ovikit_ovi.text.scan import (
    CAPTION,
    END,
    END_CAPTION,
    SPEECH,
    SUFFIX,
    Caption,
    Edit,
    Edited,
    find_captions,
    find_tags,
    misspelt,
    pairs_of,
)

Captions = Literal["tags", "suffix"]
LENGTH = 512
"""Tokens that the released encoder reads."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A prompt as it will be encoded, and the remarks on it as it was written."""

    text: str
    notes: tuple[Note, ...]

    @property
    def errors(self) -> bool:
        return any(note.severity == "error" for note in self.notes)


def format_of(prompt: str) -> Captions:
    """The caption format that a prompt is written in; ``suffix`` where it has none."""
    return "tags" if any(tag.name in (CAPTION, END_CAPTION) for tag in find_tags(prompt)) else "suffix"


def check(prompt: str, captions: Captions, count: Callable[[str], int] | None = None, length: int = LENGTH) -> Checked:
    """The rewritten prompt and all remarks.

    captions: the format that the model was trained with
    count:    the tokens of a text, end mark included; None: they are estimated
    length:   the tokens that the encoder reads
    """
    if not prompt.strip():
        advice = "say what is seen, what is said, and what is heard"
        example = in_format("A man in a red coat says <S>Good evening.<E>", "calm male voice, light rain", captions)
        return Checked(prompt, (Note("error", "empty", "the prompt is empty", (0, 0), advice, example),))
    wrong = misspelt(find_tags(prompt))
    spelt = Edited(prompt, [Edit(tag.start, tag.end, tag.name or "") for tag in wrong])
    remarks = list(rules.misspelt(wrong))
    text, structural = _structure(spelt.text, captions)
    remarks += [replace(note, span=spelt.span(*note.span)) for note in structural]
    remarks += rules.length(prompt, text, count, length)
    remarks += rules.encoding(prompt)
    order = {severity: place for place, severity in enumerate(SEVERITIES)}
    return Checked(text, tuple(sorted(remarks, key=lambda note: (note.span[0], order[note.severity]))))


def in_format(scene: str, caption: str, captions: Captions) -> str:
    """A prompt of a scene and an audio caption."""
    return f"{scene} {CAPTION}{caption}{END_CAPTION}" if captions == "tags" else f"{scene} {SUFFIX} {caption}"


def _structure(prompt: str, captions: Captions) -> tuple[str, list[Note]]:
    """The prompt in the wanted format, and the remarks on a prompt whose tags are spelt right."""
    tags = find_tags(prompt)
    speeches, lone_speech = pairs_of(tags, SPEECH, END)
    tagged, lone_captions = pairs_of(tags, CAPTION, END_CAPTION)
    spoken = [(one.opening.start, one.closing.end) for one in speeches]
    found = find_captions(prompt, tagged, spoken)
    notes = [
        *rules.lone(prompt, lone_speech, SPEECH, END),
        *rules.lone(prompt, lone_captions, CAPTION, END_CAPTION),
        *rules.nested(prompt, speeches, tagged, captions),
        *rules.empty_speech(prompt, speeches),
        *rules.unknown(tags),
        *rules.captions(prompt, found, [one for one in speeches if not one.inside], captions),
    ]
    hidden = spoken + [(one.start, one.end) for one in found]
    if not lone_speech:
        quoted = rules.quotes(prompt, hidden)
        notes += quoted
        if not quoted and not speeches:
            notes.append(rules.no_speech(prompt, found, captions))
    if not found and not lone_captions:
        notes.append(rules.no_caption(prompt, captions))
    broken = bool(lone_captions) or any(one.inside for one in tagged)
    text = prompt if broken else _reformatted(prompt, found, captions)
    return text, notes + _told(prompt, text, found, captions)


def _reformatted(prompt: str, found: Sequence[Caption], captions: Captions) -> str:
    """The prompt with its captions in that format."""
    strange = [one for one in found if one.form != captions]
    if captions == "tags":
        return Edited(prompt, [edit for one in strange for edit in _as_tags(one)]).text
    if not strange:
        return _marked(prompt, found)
    if len(found) == 1 and not any(map(str.isalnum, prompt[found[0].end :])):
        return Edited(prompt, _as_suffix(prompt, found[0])).text
    # The format has no end mark: whatever stood behind a caption would become part of it.
    left = Edited(prompt, [Edit(one.start, behind(prompt, one), "") for one in found]).text
    return f"{' '.join(left.split())} {SUFFIX} {caption_text(prompt, found)}"


def caption_text(prompt: str, found: Sequence[Caption]) -> str:
    """What the captions say, without their marks, a sentence each."""
    return " ".join(filter(None, (_sentence(prompt[slice(*one.inner)]) for one in found)))


def behind(prompt: str, caption: Caption) -> int:
    """Where the text goes on behind a caption that is taken out: behind its full stop, where the text before it has
    one of its own."""
    stop = re.compile(r"\s*[.,;]").match(prompt, caption.end)
    ended = not prompt[: caption.start].rstrip() or prompt[: caption.start].rstrip()[-1] in ".!?,;>"
    return stop.end() if stop and ended else caption.end


def _as_tags(caption: Caption) -> tuple[Edit, Edit]:
    start, end = caption.inner
    return Edit(caption.start, start, CAPTION), Edit(end, end, END_CAPTION)


def _as_suffix(prompt: str, caption: Caption) -> tuple[Edit, Edit]:
    start, end = caption.inner
    space = " " if prompt[: caption.start][-1:].isalnum() else ""
    return Edit(caption.start, start, f"{space}{SUFFIX} "), Edit(end, caption.end, "")


def _marked(prompt: str, found: Sequence[Caption]) -> str:
    """The prompt with every mark of a caption spelt as the model knows it."""
    marks = [Edit(one.start, one.inner[0], f"{SUFFIX} ") for one in found]
    return Edited(prompt, [one for one in marks if not prompt.startswith(SUFFIX, one.start)]).text


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."


def _told(prompt: str, text: str, found: Sequence[Caption], captions: Captions) -> list[Note]:
    """What the user is told of a change of format."""
    if text == prompt:
        return []
    changed = [one for one in found if one.form != captions]
    shape = f"{CAPTION}...{END_CAPTION}" if captions == "tags" else f"'{SUFFIX} ...' at the prompt's end"
    what = f"this model was trained with audio captions as {shape}"
    if captions == "suffix" and len(found) > 1:
        what = f"{what}, and with one: {len(found)} became one"
    if not changed:
        changed, what = list(found), f"the mark of an audio caption is '{SUFFIX}'"
    place = text.find(CAPTION if captions == "tags" else SUFFIX)
    shown = excerpt(text, place, min(place + 40, len(text)))
    span = (changed[0].start, changed[0].end)
    return [Note("rewritten", "caption-format", what, span, "the prompt was rewritten", shown)]
