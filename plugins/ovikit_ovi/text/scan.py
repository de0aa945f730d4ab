"""The parts of a prompt: tags however they are spelt, the speech between them, and audio captions in both formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

SPEECH, END = "<S>", "<E>"
CAPTION, END_CAPTION = "<AUDCAP>", "<ENDAUDCAP>"
SUFFIX = "Audio:"
_KNOWN = {"S": SPEECH, "E": END, "AUDCAP": CAPTION, "ENDAUDCAP": END_CAPTION}
_CLOSING = {"S": "E", "AUDCAP": "ENDAUDCAP"}

_ANGLES = re.compile(r"(?:<|&lt;|＜)\s*(/?)\s*([A-Za-z][A-Za-z _-]{0,18}?)\s*(/?)\s*(?:>|&gt;|＞)")
_BRACKETS = re.compile(r"[\[{]\s*(/?)\s*(S|E|AUDCAP|ENDAUDCAP)\s*(/?)\s*[\]}]")
_MARK = re.compile(r"(?<!\w)(audio(?:[ _](?:description|caption))?\s*[:：])\s*", re.IGNORECASE)
_SENTENCE_START = re.compile(r"(?:^|[.!?>\n\"”;)])\s*$")


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters ``start`` to ``end`` of a text, and what takes their place."""

    start: int
    end: int
    text: str


class Edited:
    """A text after edits that do not overlap, and where its characters were before them."""

    def __init__(self, text: str, edits: Sequence[Edit]) -> None:
        self._edits = sorted(edits, key=lambda edit: (edit.start, edit.end))
        parts, last = list[str](), 0
        for edit in self._edits:
            parts += [text[last : edit.start], edit.text]
            last = edit.end
        self.text = "".join([*parts, text[last:]])

    def before(self, position: int, end: bool = False) -> int:
        """The place in the old text of a place in the new one. Inside what was put in: where that begins, or ends."""
        shift = 0
        for edit in self._edits:
            start = edit.start + shift
            if position < start:
                break
            if position < start + len(edit.text):
                return edit.end if end else edit.start
            shift += len(edit.text) - (edit.end - edit.start)
        return position - shift

    def span(self, start: int, end: int) -> tuple[int, int]:
        """A span of the new text in the old one, what was exchanged covered as a whole."""
        first = self.before(start)
        if end <= start:
            return first, first
        last = self.before(end - 1, end=True)
        return first, max(last, self.before(end - 1) + 1)


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag. name: as the model knows it; None: it knows no such tag."""

    name: str | None
    written: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Caption:
    """An audio caption.

    start, end:  of all of it, tags included
    inner:       start and end of its text
    """

    form: Literal["tags", "suffix"]
    start: int
    end: int
    inner: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tags that belong together. inside: it lies within another pair."""

    opening: Tag
    closing: Tag
    inside: bool


def find_tags(prompt: str) -> list[Tag]:
    """Everything that is a tag or looks meant as one, in order."""
    found = [_tag(match) for match in _ANGLES.finditer(prompt)]
    # "a < b and c > d" is none.
    found = [tag for tag in found if tag.name is not None or not re.search(r"\s", tag.written)]
    square = [_tag(match) for match in _BRACKETS.finditer(prompt)]
    names = {tag.name for tag in square}
    # One bracketed letter may be anything; both ends of a pair are meant as tags.
    if {SPEECH, END} <= names or {CAPTION, END_CAPTION} <= names:
        found += square
    return sorted(found, key=lambda tag: tag.start)


def _tag(match: re.Match[str]) -> Tag:
    name = re.sub(r"[ _-]", "", match[2]).upper()
    if name not in _KNOWN and len(name) > 4:
        # Not the last letters of an ordinary word in angle brackets: only what is nearly the long names.
        name = next(iter(get_close_matches(name, ["AUDCAP", "ENDAUDCAP"], n=1, cutoff=0.75)), name)
    if match[1] or match[3]:
        name = _CLOSING.get(name, name)
    return Tag(_KNOWN.get(name), match[0], match.start(), match.end())


def misspelt(tags: Sequence[Tag]) -> list[Tag]:
    return [tag for tag in tags if tag.name is not None and tag.name != tag.written]


def pairs_of(tags: Sequence[Tag], opening: str, closing: str) -> tuple[list[Pair], list[Tag]]:
    """The pairs of one kind, each closing tag taken with the nearest open one, and the tags that are left over."""
    pairs: list[Pair] = []
    stack: list[Tag] = []
    alone: list[Tag] = []
    for tag in tags:
        if tag.name == opening:
            stack.append(tag)
        elif tag.name == closing and stack:
            pairs.append(Pair(stack.pop(), tag, inside=False))
        elif tag.name == closing:
            alone.append(tag)
    pairs = [Pair(one.opening, one.closing, any(_within(one, other) for other in pairs)) for one in pairs]
    ordered = sorted(pairs, key=lambda pair: pair.opening.start)
    return ordered, sorted(alone + stack, key=lambda tag: tag.start)


def _within(one: Pair, other: Pair) -> bool:
    return other.opening.start < one.opening.start and one.closing.end < other.closing.end


def find_captions(prompt: str, tagged: Sequence[Pair], taken: Sequence[tuple[int, int]]) -> list[Caption]:
    """The captions in both formats, in order. ``Audio:`` begins one only outside of ``taken``, and ends it where the
    next caption begins, or the prompt ends."""
    captions = [
        Caption("tags", one.opening.start, one.closing.end, (one.opening.end, one.closing.start))
        for one in tagged
        if not one.inside
    ]
    closed = [(one.start, one.end) for one in captions]
    marks = [mark for mark in _MARK.finditer(prompt) if _begins_caption(prompt, mark, [*taken, *closed])]
    # Beside a caption, and behind another mark, other spellings of the mark are words like any.
    loose = [] if captions else marks[:1]
    marks = [mark for mark in marks if mark[1] == SUFFIX] or loose
    borders = [one.start for one in captions] + [mark.start() for mark in marks] + [len(prompt)]
    for mark in marks:
        end = min(border for border in borders if border > mark.start())
        stop = mark.end() + len(prompt[mark.end() : end].rstrip())
        captions.append(Caption("suffix", mark.start(), stop, (mark.end(), stop)))
    return sorted(captions, key=lambda caption: caption.start)


def _begins_caption(prompt: str, mark: re.Match[str], taken: Sequence[tuple[int, int]]) -> bool:
    """Whether ``Audio:`` is meant as the model's mark: spelt as that, or at the start of a sentence."""
    if any(start <= mark.start() < end for start, end in taken):
        return False
    return mark[1] == SUFFIX or _SENTENCE_START.search(prompt[: mark.start()]) is not None
