"""The ``sidecar`` captioner: prompts from files beside the clips, or from a table."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Literal

from ovikit.data.folder import caption_of, read_caption_file
from ovikit.errors import UserError
from ovikit.types import Clip

Otherwise = Literal["name", "drop"]


class Sidecar:
    """Reads ``NAME.txt``, ``prompt`` in ``NAME.json``, or the row of a table whose ``file`` is the file's name or the
    end of its path; where a table gives several rows with ``start_s`` for a file, the last that starts no later than
    the clip.

    prompt:    of files without a caption; None: as ``otherwise`` says
    table:     a CSV file with the columns ``file``, ``prompt`` and, if need be, ``start_s``
    otherwise: what to do about files without a caption: their name in words, or none, which leaves them out

    UserError for a table that cannot be read.
    """

    def __init__(self, prompt: str | None, table: Path | None, otherwise: Otherwise) -> None:
        self.prompt, self.otherwise = prompt, otherwise
        self._rows = _read_table(table) if table is not None else {}
        self._digest = hashlib.sha256(table.read_bytes()).hexdigest() if table is not None else None

    def caption(self, clip: Clip, file: Path) -> str | None:
        start_s = float(clip.truth.get("start_s", 0.0))
        rows = self._rows.get(file.name) or self._rows.get(file.as_posix())
        if rows is None:
            rows = next((own for name, own in self._rows.items() if file.as_posix().endswith(f"/{name}")), None)
        if rows is not None and (told := [text for from_s, text in rows if from_s <= start_s + 1e-6]):
            return told[-1]
        prompt = "" if self.prompt is None and self.otherwise == "drop" else self.prompt
        return caption_of(file, prompt) or None

    def fingerprint(self) -> str:
        return f"sidecar/1/{self.prompt!r}/{self._digest}/{self.otherwise}"


def _read_table(path: Path) -> dict[str, list[tuple[float, str]]]:
    """(start_s, prompt) of each file, by time."""
    if not path.is_file():
        raise UserError("there is no such table of captions", str(path))
    reader = csv.DictReader(read_caption_file(path).splitlines())
    lacking = {"file", "prompt"} - set(reader.fieldnames or ())
    if lacking:
        raise UserError(f"this table of captions has no column {' and no column '.join(sorted(lacking))}", str(path))
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for number, row in enumerate(reader, start=2):
        try:
            start_s = float(row.get("start_s") or 0.0)
        except ValueError:
            raise UserError(f"start_s is {row['start_s']!r}, which is no number", f"{path}:{number}") from None
        if not row["file"] or row["prompt"] is None:
            raise UserError("this row names no file, or has no prompt", f"{path}:{number}")
        found[row["file"]].append((start_s, row["prompt"].strip()))
    return {name: sorted(rows) for name, rows in found.items()}
