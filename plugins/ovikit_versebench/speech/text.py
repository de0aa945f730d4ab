"""Two texts by how many words, or characters, have to be changed to make one of the other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations
from typing import Literal

from torchmetrics.functional.text import edit_distance

from ovikit.extras import require

Script = Literal["latin", "joined", "other"]
"""joined: puts no spaces between words."""
_SPOKEN = re.compile(r"<S>(.*?)<E>", re.DOTALL)
_JOINED = re.compile(
    "[\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
MOST_SPEAKERS = 7
"""More cannot be matched in every way."""
_PRIVATE = 0xF0000
"""Where Unicode has no characters, so that any unit may be written as one."""


def spoken_in(prompt: str) -> list[str]:
    """What a prompt in the released Ovi model's format has said, between ``<S>`` and ``<E>``, by turn."""
    return [part.strip() for part in _SPOKEN.findall(prompt) if part.strip()]


def letters_of(text: str) -> list[str]:
    """Those of a text, in one form each."""
    return [one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one)[0] == "L"]


def script_of(text: str) -> Script:
    """The script of most of a text's letters; latin where there are none."""
    letters = letters_of(text)
    if 2 * sum(bool(_JOINED.match(one)) for one in letters) > len(letters):
        return "joined"
    latin = sum(unicodedata.name(one, "").startswith("LATIN") for one in letters)
    return "latin" if 2 * latin >= len(letters) else "other"


def units(text: str, script: Script) -> list[str]:
    """What is counted of a text, without capitals and punctuation: characters in joined scripts, words in others.

    Words in Latin letters are as the normaliser of English that Whisper's authors published has them: numbers in
    digits, "Mr." as "mister", "it's" as "it is", no accents, no "um"; what is in brackets is not said. It brings two
    texts alike to one form, whatever their language; that form is not always a text ("5 o'clock" is "50 clock").
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    if script == "latin":
        return _english()(plain).split()
    # Vowels of Indian scripts and of Thai are marks.
    kept = "".join(one if unicodedata.category(one)[0] in "LNM" else " " for one in plain)
    return [one for one in kept if one != " "] if script == "joined" else kept.split()


@cache
def _english() -> Callable[[str], str]:
    return require("transformers.models.whisper.english_normalizer", extra="ovi").EnglishTextNormalizer({})


def characters(text: str, script: Script) -> list[str]:
    """Letters and digits of what is counted of a text."""
    return [*"".join(units(text, script))]


def edits(heard: Sequence[str], wanted: Sequence[str]) -> int:
    """The least number of insertions, deletions and substitutions that make one sequence of the other."""
    letters = {one: chr(_PRIVATE + k) for k, one in enumerate(dict.fromkeys((*heard, *wanted)))}
    one, other = ("".join(letters[unit] for unit in side) for side in (heard, wanted))
    if not one or not other:
        return len(one) + len(other)
    return int(edit_distance(one, other, reduction="sum"))


def error_rate(heard: Sequence[str], wanted: Sequence[str]) -> float:
    """Edits by the number of wanted units, of at least one. It may exceed 1."""
    return edits(heard, wanted) / len(wanted)


def cpcer(heard: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """Concatenated minimum-permutation error rate: what each speaker says, one after the other, matched with the
    speakers that were wanted in the best way. With spare speakers who say nothing on either side, so that a voice too
    many, or too few, counts in full.

    heard, wanted: the characters of each speaker, at most ``MOST_SPEAKERS``; some are wanted
    """
    size = max(len(heard), len(wanted))
    ours, theirs = ([*side, *[()] * (size - len(side))] for side in (heard, wanted))
    costs = [[edits(one, other) for other in theirs] for one in ours]
    best = min(sum(costs[i][j] for i, j in enumerate(order)) for order in permutations(range(size)))
    return best / sum(map(len, theirs))
