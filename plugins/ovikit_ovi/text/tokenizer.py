"""The released tokenizer: a prompt to the numbers of its pieces.

``tokenizer.json`` is read as it is. transformers 5 would rebuild the pipeline of a T5 tokenizer from the vocabulary
alone, which need not split text as the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ovikit.errors import UserError
from ovikit.extras import require
from ovikit.files import sha256_of
from ovikit_ovi.text.cleaning import clean

FILE = "tokenizer.json"
BARE = "spiece.model"
END = "</s>"
_HINT = "download the folder again, or copy it from where the weights came from"


class PromptTokenizer:
    """Prompts to numbers.

    pieces: numbers of a cleaned text, without an end mark
    end:    number of the end mark
    size:   how many numbers there are
    """

    def __init__(self, pieces: Callable[[str], Sequence[int]], end: int, size: int) -> None:
        self._pieces, self._end, self.size = pieces, end, size

    def ids(self, prompt: str, length: int) -> list[int]:
        """At most ``length`` numbers, the last of them the end mark."""
        return [*self._pieces(clean(prompt))[: length - 1], self._end]

    def count(self, prompt: str) -> int:
        """How many numbers the whole prompt has, with the end mark."""
        return len(self._pieces(clean(prompt))) + 1


def tokenizer_file(folder: Path) -> Path:
    """The file of a tokenizer folder that is read. UserError where there is none."""
    for name in (FILE, BARE):
        if (folder / name).is_file():
            return folder / name
    what = f"the tokenizer's folder has no {FILE}" if folder.is_dir() else "this is not the folder of a tokenizer"
    raise UserError(what, str(folder), _HINT)


def tokenizer_digest(folder: Path) -> str:
    """sha256 (hex) of the file that decides about the numbers."""
    return sha256_of(tokenizer_file(folder))


def load_tokenizer(folder: Path) -> PromptTokenizer:
    """The tokenizer of a folder. UserError where it is missing, damaged, or needs a package that is not there."""
    path = tokenizer_file(folder)
    return _from_json(path) if path.name == FILE else _from_pieces(path)


def _from_json(path: Path) -> PromptTokenizer:
    tokenizers = require("tokenizers", "ovi")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more particular
        raise UserError(f"this is not a tokenizer ({error})", str(path), _HINT) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = tokenizer.token_to_id(END)
    if end is None:
        raise UserError(f"the tokenizer has no end mark {END}", str(path), "it is not the tokenizer of a T5 model")

    def pieces(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return PromptTokenizer(pieces, end, tokenizer.get_vocab_size())


def _from_pieces(path: Path) -> PromptTokenizer:
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise UserError(
            f"there is only a {BARE} here, and sentencepiece, which reads it, is not installed",
            str(path.parent),
            f"put the {FILE} of the same tokenizer beside it, or: pip install sentencepiece",
        ) from error
    model: Any = sentencepiece.SentencePieceProcessor()
    try:
        model.Load(str(path))
    except (RuntimeError, OSError) as error:
        raise UserError("this is not a sentencepiece model", str(path), _HINT) from error
    return PromptTokenizer(model.EncodeAsIds, model.eos_id(), model.GetPieceSize())
