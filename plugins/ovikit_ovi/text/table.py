"""A file of prompts with its prompts exchanged and everything else as it was."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovikit.generate.prompts import COLUMNS

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def rewritten_table(source: Path | None, prompts: Sequence[str]) -> str:
    """CSV with one row for each prompt of ``source``, in its order.

    source: a file that ``read_prompts`` took; None: there are only the prompts
    """
    rows = _rows(source) if source is not None else []
    if not rows:
        rows = [{COLUMNS.prompt[0]: ""} for _ in prompts]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row, prompt in zip(rows, prompts, strict=True):
        named = next((name for name in COLUMNS.prompt if row.get(name)), COLUMNS.prompt[0])
        writer.writerow({name: _cell(value) for name, value in {**row, named: prompt}.items()})
    return out.getvalue()


def _rows(source: Path) -> list[Mapping[str, Any]]:
    """The rows of a table by column; none for a plain text file."""
    text = source.read_text(encoding="utf-8-sig")
    delimiter = _DELIMITERS.get(source.suffix.lower())
    if delimiter is not None:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        return list(reader)
    if source.suffix.lower() == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return []


def _cell(value: Any) -> str:
    """A value as CSV has it: a missing one is empty, what is no text is JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
