"""The conditioner of the released model: prompts through UMT5-XXL.

Shape legend: b prompts, l tokens of the longest prompt, c channels (the encoder's width).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.networks.protocols import Prepared, Progress
from ovikit.types import AV, Text
from ovikit_ovi.text import cleaning
from ovikit_ovi.text.encoder import Umt5Shape, embed, read_encoder
from ovikit_ovi.text.parts import parts_of
from ovikit_ovi.text.prompts import check
from ovikit_ovi.text.tokenizer import PromptTokenizer, load_tokenizer, tokenizer_digest

VERSION = "1"
_log = logging.getLogger(__name__)


class Umt5Conditioner:
    """Prompts to embeddings cut to their true length and padded with zeros, as the released code does.

    Weights and tokenizer are looked for when they are first needed. On a device they are once ``load`` has put them
    there; ``encode`` without it works on the CPU.

    separate: the towers read what is seen and what is heard, each its own
    """

    def __init__(
        self,
        assets: Assets,
        shape: Umt5Shape,
        *,
        weights: str,
        tokenizer: str,
        dtype: torch.dtype,
        captions: Literal["tags", "suffix"],
        length: int,
        separate: bool = False,
    ) -> None:
        self.width = shape.width
        self._assets, self._shape, self._dtype = assets, shape, dtype
        self._weights_name, self._tokenizer_name = weights, tokenizer
        self.captions: Literal["tags", "suffix"] = captions
        self.length, self.separate = length, separate
        self._tokenizer: PromptTokenizer | None = None
        self._encoder: nn.Module | None = None

    def prepare(self, prompt: str) -> Prepared:
        """The prompt with its audio caption in the model's format and its tags spelt right, and what else is wrong
        with it."""
        found = check(prompt, self.captions, length=self.length)
        return Prepared(found.text, tuple(note.line() for note in found.notes if note.severity != "info"))

    def split(self, prompt: str) -> AV[str]:
        """What each tower reads: the whole prompt, or its own part of it."""
        return AV(*parts_of(prompt, self.captions)) if self.separate else AV(prompt, prompt)

    def load(self, device: torch.device | str, progress: Progress | None = None) -> None:
        """Reads tokenizer and weights the first time, and moves the weights after that."""
        self.tokenizer()  # first: that it is missing should not be told after eleven gigabytes
        if self._encoder is None:
            path = self._assets.path(self._weights_name)
            self._encoder = read_encoder(path, self._shape, self._dtype, device, progress)
        self._encoder.to(device)

    def unload(self) -> None:
        self._encoder = None

    def weight_bytes(self) -> int:
        return self._shape.parameters() * self._dtype.itemsize

    def tokenizer(self) -> PromptTokenizer:
        """The tokenizer, read the first time. UserError where it is missing or belongs to another encoder."""
        if self._tokenizer is None:
            folder = self._assets.path(self._tokenizer_name)
            found = load_tokenizer(folder)
            if found.size > self._shape.vocabulary:
                raise UserError(
                    f"this tokenizer knows {found.size} tokens, the encoder {self._shape.vocabulary}",
                    str(folder),
                    "put the tokenizer that came with the encoder there",
                )
            self._tokenizer = found
        return self._tokenizer

    def encode(self, prompts: Sequence[str]) -> Text:
        """Embeddings (b, l, c), zero past each prompt's length, where the weights are and in their number format."""
        if self._encoder is None:
            self.load("cpu")
        assert self._encoder is not None
        ids = [tuple(self._ids(prompt)) for prompt in prompts]
        rows: dict[tuple[int, ...], Tensor] = {}
        for one in ids:
            if one not in rows:
                rows[one] = embed(self._encoder, one)
        return padded([rows[one] for one in ids])

    def _ids(self, prompt: str) -> list[int]:
        """The numbers of a prompt; what is cut off is said."""
        if (whole := self.tokenizer().count(prompt)) > self.length:
            _log.warning("a prompt has %d tokens and only %d are read: %.60s...", whole, self.length, prompt)
        return self.tokenizer().ids(prompt, self.length)

    def fingerprint(self) -> str:
        """Changes with the weights, the tokenizer and every option. Reads both files."""
        shape, tokenizer = self._shape, tokenizer_digest(self._assets.path(self._tokenizer_name))
        sizes = (shape.layers, shape.width, shape.feed_forward_width, shape.heads, shape.head_width, shape.buckets)
        options = (VERSION, cleaning.VERSION, self._dtype, self.captions, self.length, *sizes)
        apart = ("separate",) if self.separate else ()
        return "/".join(["umt5", *map(str, options), *apart, tokenizer, self._assets.digest(self._weights_name)])


def padded(rows: Sequence[Tensor]) -> Text:
    """The text of rows (l_i, c), zero past each one's length."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    return Text(nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths)
