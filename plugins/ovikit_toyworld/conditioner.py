"""A text conditioner without training and without downloads: every word has its own fixed random vector.

Shape legend: b batch, l words, c channels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ovikit.networks.protocols import Prepared
from ovikit.types import AV, Text

VERSION = "1"
MARK = "Audio:"
"""What parts a prompt: before it stands what is seen, behind it what is heard."""
_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_ORDER = 0.25
"""Weight of a word's place beside the word itself."""


def words(prompt: str) -> list[str]:
    """The words of a prompt in lower case, without punctuation; one empty word for an empty prompt."""
    return _WORD.findall(prompt.lower()) or [""]


class HashedWords:
    """Prompts to rows of noise that are always the same: a word's vector is drawn from the hash of its letters.

    Any word in any script has one, so there is no vocabulary; two words are as good as never alike. A slow sinusoid
    tells the word order. Prompts longer than ``length`` words lose their end.

    separate: the video tower reads what stands before "Audio:", the audio tower what stands behind it
    """

    def __init__(self, width: int, length: int, seed: int, separate: bool = False) -> None:
        self.width, self.length, self.seed, self.separate = width, length, seed, separate
        self._vector = lru_cache(maxsize=4096)(self._draw)
        steps = torch.arange(length, dtype=torch.float64)[:, None]
        channels = torch.arange(width, dtype=torch.float64)[None]
        self._order = (_ORDER * torch.sin(steps * 100.0 ** (-channels / width) + channels * torch.pi / 2)).float()

    def prepare(self, prompt: str) -> Prepared:
        return Prepared(prompt)

    def split(self, prompt: str) -> AV[str]:
        """What each tower reads: the whole prompt, or its own part."""
        if not self.separate:
            return AV(prompt, prompt)
        seen, _, heard = prompt.partition(MARK)
        return AV(seen.strip(), heard.strip())

    def encode(self, prompts: Sequence[str]) -> Text:
        """Rows (b, l, c) of variance about 1, zero past each prompt's words; l is the longest prompt's."""
        found = [words(prompt)[: self.length] for prompt in prompts]
        lengths = torch.tensor([len(each) for each in found], dtype=torch.int64)
        tokens = torch.zeros(len(found), int(lengths.max()), self.width)
        for row, each in zip(tokens, found, strict=True):
            row[: len(each)] = torch.stack([self._vector(word) for word in each]) + self._order[: len(each)]
        return Text(tokens, lengths)

    def _draw(self, word: str) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}/{word}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % 2**63)
        return torch.randn(self.width, generator=generator)

    def fingerprint(self) -> str:
        apart = "/separate" if self.separate else ""
        return f"hashed-words/{VERSION}/{self.width}/{self.length}/{self.seed}{apart}"
