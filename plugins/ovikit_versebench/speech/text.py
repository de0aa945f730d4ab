"""Two texts by how many words, or characters, have to be changed to make one of the other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import permutations

from torchmetrics.functional.text import word_error_rate

_SPOKEN = re.compile(r"<S>(.*?)<E>", re.DOTALL)
_TOGETHER = re.compile(
    "[\u0e00-\u0e7f\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]"
)
"""Characters of scripts that put no spaces between words: Thai, Japanese, Chinese."""
MOST_SPEAKERS = 7
"""More cannot be matched in every way."""


def spoken_in(prompt: str) -> str:
    """What a prompt in the released Ovi model's format has said, between ``<S>`` and ``<E>``."""
    return " ".join(part.strip() for part in _SPOKEN.findall(prompt) if part.strip())


def units(text: str) -> list[str]:
    """What is counted of a text: its words, without capitals and punctuation; its characters where most of its letters
    are of a script without spaces."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    # Apostrophes within words are part of them: "don't" is one word.
    plain = re.sub(r"(?<!\w)'|'(?!\w)|[^\w\s']|_", " ", plain)
    letters = [one for one in plain if one.isalnum()]
    if letters and 2 * sum(bool(_TOGETHER.match(one)) for one in letters) > len(letters):
        return letters
    return plain.split()


def characters(text: str) -> list[str]:
    """Letters and digits, without capitals."""
    return [one for one in unicodedata.normalize("NFKC", text).casefold() if one.isalnum()]


def error_rate(heard: Sequence[str], wanted: Sequence[str]) -> float:
    """Insertions, deletions and substitutions by the number of wanted units; of at least one. It may exceed 1."""
    # Spaces are what the library splits at, so none may be within a unit.
    return float(word_error_rate([" ".join(heard)], [" ".join(wanted)]))


def cpcer(heard: Sequence[str], wanted: Sequence[str]) -> float:
    """Concatenated minimum-permutation character error rate: what each speaker says, one after the other, matched with
    the speakers that were wanted in the best way. ``wanted`` has a text with characters at least.

    heard, wanted: the text of each speaker, at most ``MOST_SPEAKERS``
    """
    size = max(len(heard), len(wanted))
    ours, theirs = ([characters(one) for one in (*side, *[""] * (size - len(side)))] for side in (heard, wanted))
    costs = [[_edits(one, other) for other in theirs] for one in ours]
    best = min(sum(costs[i][j] for i, j in enumerate(order)) for order in permutations(range(size)))
    return best / sum(map(len, theirs))


def _edits(heard: Sequence[str], wanted: Sequence[str]) -> int:
    if not wanted or not heard:
        return len(wanted) + len(heard)
    return round(error_rate(heard, wanted) * len(wanted))
