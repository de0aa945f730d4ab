"""Prompts from a text, CSV or JSONL file, or from the command line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem

COLUMNS = ("text_prompt", "prompt")
"""Where a CSV or JSONL row holds its prompt; the first is the name that the released model's files use."""
_SLUG = 40
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
ID_HINT = "use letters, digits, '.', '_' and '-', up to 200 of them, a letter or digit first"

Row = tuple[int, str, str | None]
"""Line number, prompt, id or None."""


def read_prompts(path: Path | str) -> list[PromptItem]:
    """The prompts of a ``.txt`` (one a line), ``.csv`` or ``.jsonl`` file, in its order.

    CSV and JSONL rows hold the prompt in ``text_prompt`` or ``prompt`` and may name the clip in ``id``; other
    columns are ignored. Ids default to the position, 00000 onwards. Blank lines are skipped, repeated prompts kept.

    UserError, with file and line, for a row without a prompt, a bad or repeated id, or a file without prompts.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"prompts are read from {', '.join(_READERS)} files, not from '{path.suffix}'", str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("there is no such file", str(path)) from None
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 text (byte {error.start})", str(path)) from None
    return _items(reader(text, path), path)


def given_prompts(prompts: Sequence[str], seed: int = 0) -> list[PromptItem]:
    """Prompts from the command line, named after their words and the seed, so that one try does not stand in the
    way of the next. UserError for an empty one."""
    for prompt in prompts:
        if not prompt.strip():
            raise UserError("the prompt is empty", "--prompt")
    return [PromptItem(f"{_slug(prompt)}-seed{seed}", prompt.strip()) for prompt in prompts]


def _slug(prompt: str) -> str:
    """The first words of a prompt as a file name, and a hash where that is not all of it."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))
    if words.split("-") == prompt.lower().split() and len(words) <= _SLUG:
        return words
    # What was left out may be all that two prompts differ in: a hash tells them apart.
    mark = hashlib.sha256(prompt.strip().encode()).hexdigest()[:6]
    return f"{words[:_SLUG].rstrip('-') or 'prompt'}-{mark}"


def _items(rows: Iterator[Row], path: Path) -> list[PromptItem]:
    items: list[PromptItem] = []
    lines: dict[str, int] = {}
    for line, prompt, given in rows:
        where = f"{path}:{line}"
        name = _position(len(items)) if given is None else given
        if not prompt.strip():
            raise UserError("the prompt is empty", where)
        if not SAFE_ID.fullmatch(name):
            raise UserError(f"the id '{name}' cannot name a file", where, ID_HINT)
        # Some file systems do not tell capitals from small letters.
        if name.lower() in lines:
            raise UserError(f"the id '{name}' was already given in line {lines[name.lower()]}", where)
        lines[name.lower()] = line
        items.append(PromptItem(name, prompt.strip()))
    if not items:
        raise UserError("it holds no prompts", str(path))
    return items


def _position(index: int) -> str:
    return f"{index:05d}"


def _txt(text: str, path: Path) -> Iterator[Row]:
    for line, prompt in enumerate(text.split("\n"), start=1):
        if prompt.strip():
            yield line, prompt, None


def _csv(text: str, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="")
    last = 0
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        if columns and not set(COLUMNS) & set(columns):
            raise UserError(f"no column '{COLUMNS[0]}' or '{COLUMNS[1]}' among: {', '.join(columns)}", f"{path}:1")
        last = reader.line_num
        for row in reader:
            if "" in row and "" not in columns:
                raise UserError(
                    f"the row has more than {len(columns)} columns", f"{path}:{reader.line_num}",
                    "put a prompt that has commas in double quotes",
                )  # fmt: skip
            last = reader.line_num
            yield _row(row, path, last)
    except csv.Error as error:
        # An open quote is noticed at the end of the file: the row that it began is what the user must look at.
        raise UserError(f"not valid CSV: {error}", f"{path}:{last + 1}") from None


def _jsonl(text: str, path: Path) -> Iterator[Row]:
    for line, document in enumerate(text.split("\n"), start=1):
        if not document.strip():
            continue
        try:
            row = json.loads(document)
        except json.JSONDecodeError as error:
            raise UserError(f"not valid JSON: {error.msg} at column {error.colno}", f"{path}:{line}") from None
        if not isinstance(row, dict):
            raise UserError('each line must be an object such as {"prompt": "..."}', f"{path}:{line}")
        yield _row(row, path, line)


def _row(row: Mapping[str, object], path: Path, line: int) -> Row:
    prompt = next((row[column] for column in COLUMNS if row.get(column) is not None), None)
    if not isinstance(prompt, str):
        what = "it has no prompt" if prompt is None else f"the prompt is {prompt!r}, not a text"
        raise UserError(what, f"{path}:{line}", f"the prompt goes in '{COLUMNS[0]}' or '{COLUMNS[1]}'")
    name = row.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise UserError(f"the id is {name!r}, not a text or a number", f"{path}:{line}")
    return line, prompt, None if name is None or name == "" else str(name)


_READERS: dict[str, Callable[[str, Path], Iterator[Row]]] = {".txt": _txt, ".csv": _csv, ".jsonl": _jsonl}
