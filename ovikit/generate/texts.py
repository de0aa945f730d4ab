"""Embeddings of prompts, kept on disk: a run whose prompts were encoded before never loads the encoder.

    texts = TextCache().of(conditioner)
    if texts.missing(prompts):
        with placement.text(conditioner):      # the encoder comes, and goes before denoising starts
            texts.encode(prompts, progress)
    batch = texts.text(prompts[:4])            # padded with zeros, as by the conditioner itself

An entry is one prompt at its true length: two bytes a number for a bfloat16 encoder, so a prompt of 100 tokens takes
0.8 MB of width 4096, one of 512 tokens 4.2 MB. Past ``MOST_BYTES`` the entries that were not read for longest go.

Shape legend: b prompts, l tokens of a prompt, c channels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovikit.checkpoints.load import read_tensors, write_tensors
from ovikit.errors import UserError
from ovikit.layout import cache_folder
from ovikit.networks.protocols import Conditioner, Progress, Weighted
from ovikit.types import Text

FOLDER = "texts"
MOST_BYTES = 8_000_000_000
IN_USE_S = 24 * 3600.0
"""Entries read within this time are left alone: another run may be about to read them again."""
_VERSION = "1"
_TOKENS = "tokens"
_log = logging.getLogger(__name__)


class TextCache:
    """A folder of embeddings.

    folder:     None: ``texts`` in the folder that OVIKIT_CACHE names, or ~/.cache/ovikit
    most_bytes: what it may grow to
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self.folder = cache_folder() / FOLDER if folder is None else folder
        self.most_bytes = most_bytes

    def of(self, conditioner: Conditioner) -> Texts:
        """What one conditioner made, or will make. Takes its fingerprint, which may read its files."""
        return Texts(self, conditioner)

    def encode(
        self,
        conditioner: Conditioner,
        prompts: Sequence[str],
        progress: Progress | None = None,
        device: torch.device | str = "cpu",
    ) -> Texts:
        """The texts of prompts. Where all are there, no weights are read; otherwise they are, and freed again."""
        texts = self.of(conditioner)
        if texts.missing(prompts):
            weighted = conditioner if isinstance(conditioner, Weighted) else None
            try:
                if weighted is not None:
                    weighted.load(device)
                texts.encode(prompts, progress)
            finally:
                if weighted is not None:
                    weighted.unload()
        return texts

    def path(self, fingerprint: str, prompt: str) -> Path:
        """Where the embedding of a prompt is kept."""
        key = json.dumps([_VERSION, fingerprint, prompt])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def read(self, path: Path) -> Float[Tensor, "l c"] | None:
        """An entry; None where there is none, or a damaged one, which is said."""
        if not path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(path)
            row = tensors[_TOKENS]
            if row.ndim != 2 or metadata.get("sha256") != _digest(row):
                raise UserError("its numbers are not those that were written", str(path))
        except (UserError, KeyError) as error:
            told = error.what if isinstance(error, UserError) else f"it holds no {error}"
            _log.warning("%s: a damaged embedding is made anew (%s)", path, told)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # a cache that can only be read is a cache
            os.utime(path)
        return row

    def write(self, path: Path, row: Float[Tensor, "l c"]) -> None:
        """Keeps an entry, whole or not at all. UserError where it cannot be written."""
        write_tensors(path, {_TOKENS: row}, {"format": "ovikit-text", "sha256": _digest(row)})

    def shrink(self) -> None:
        """Removes what was not read for longest, until the folder is within its bound."""
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another run may be at it
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        spare = sum(size for _, size, _ in found) - self.most_bytes
        for read, size, path in sorted(found):
            if spare <= 0 or time.time() - read < IN_USE_S:
                return
            spare -= size
            path.unlink(missing_ok=True)


class Texts:
    """The embeddings of one conditioner.

    Those of a conditioner without weights are not worth a file: they are kept in memory, as are those that cannot be
    written.
    """

    def __init__(self, cache: TextCache, conditioner: Conditioner) -> None:
        self._cache, self._conditioner = cache, conditioner
        self._kept = self._written = isinstance(conditioner, Weighted)
        self._fingerprint = conditioner.fingerprint()
        self._rows: dict[str, Tensor] = {}

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that ``encode`` would have to encode, each once. Every entry is read, so that a damaged one is
        found while there is still time."""
        return [prompt for prompt in dict.fromkeys(prompts) if self._row(prompt) is None]

    def encode(self, prompts: Sequence[str], progress: Progress | None = None, batch_size: int = 1) -> None:
        """Makes the embeddings of the missing prompts. The conditioner must be loaded if there are any.

        progress:   told of the missing ones, after each batch
        batch_size: prompts that the conditioner is given at a time
        """
        missing = self.missing(prompts)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            text = self._conditioner.encode(batch)
            for prompt, tokens, length in zip(batch, text.tokens.cpu(), text.lengths.tolist(), strict=True):
                self._keep(prompt, tokens[:length].clone())
            if progress is not None:
                progress(start + len(batch), len(missing))
        if missing and self._written:
            self._cache.shrink()

    def text(self, prompts: Sequence[str]) -> Text:
        """The texts of prompts, on the CPU, padded with zeros to the longest. UserError where one is not there."""
        rows: list[Tensor] = []
        for prompt in prompts:
            row = self._row(prompt)
            if row is None:
                raise UserError(
                    f"there is no embedding of the prompt {prompt!r}",
                    str(self._cache.folder),
                    "it was there when this run began; start the run again, and it is made anew",
                )
            rows.append(row)
        lengths = torch.tensor([len(row) for row in rows])
        return Text(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)

    def _row(self, prompt: str) -> Tensor | None:
        row = self._rows.get(prompt)
        if row is None and self._kept:
            row = self._cache.read(self._cache.path(self._fingerprint, prompt))
        return row

    def _keep(self, prompt: str, row: Tensor) -> None:
        if self._written:
            try:
                self._cache.write(self._cache.path(self._fingerprint, prompt), row)
                return
            except UserError as error:
                _log.warning("%s\n  the embeddings of this run are not kept", error.render())
                self._written = False
        self._rows[prompt] = row


def _digest(row: Tensor) -> str:
    """sha256 of a tensor's bytes."""
    return hashlib.sha256(row.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
