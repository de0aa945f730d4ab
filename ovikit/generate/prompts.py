"""Prompts from a text, CSV, TSV or JSONL file, or from the command line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem
from ovikit.generate.image import read_image

_SLUG = 40
_SHOWN = 20
"""Bad rows that one message lists."""
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
ID_HINT = "use letters, digits, '.', '_' and '-', up to 200 of them, a letter or digit first"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row holds what.

    prompt: the first of these that the row has; by default the name that the released model's files use, or a plain one
    image:  file of the first frame
    kept:   what else is taken, into the item's ``truth``, where the row has it
    """

    prompt: tuple[str, ...] = ("text_prompt", "prompt")
    id: str = "id"
    image: str = "image_path"
    kept: tuple[str, ...] = ()


COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a prompts file as it was read: id and image are None where it has none."""

    line: int
    prompt: str
    id: str | None = None
    image: str | None = None
    kept: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be used, and why."""

    line: int
    what: str
    hint: str | None = None


Rows = Iterator[Row | Bad]


def read_prompts(path: Path | str, columns: Columns = COLUMNS, number: str = "{:05d}") -> list[PromptItem]:
    """The prompts of a ``.txt`` (one a line), ``.csv``, ``.tsv`` or ``.jsonl`` file, in its order.

    CSV, TSV and JSONL rows hold the prompt in ``text_prompt`` or ``prompt``, may name the clip in ``id`` and its first
    frame in ``image_path``, or in other ``columns``; what is in none is ignored. Ids default to the position, from 0,
    as ``number`` writes it. Images are looked
    for beside the file, then, as the released code does, in the current folder. Blank lines are skipped, repeated
    prompts kept.

    UserError, with file and line, for rows without a prompt, bad or repeated ids, images that cannot be read (all
    such rows in one message), or a file without prompts.
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
        raise UserError(f"it is not UTF-8 text (byte {error.start})", str(path), "save it as UTF-8") from None
    return _items(reader(text, path, columns), path, number)


def given_prompts(prompts: Sequence[str], seed: int = 0, image: Path | None = None) -> list[PromptItem]:
    """Prompts from the command line, named after their words and the seed, so that one try does not stand in the
    way of the next; with a first frame for all, after that, too. UserError for an empty one."""
    for prompt in prompts:
        _refuse_no_text(prompt, "--prompt")
    mark = "" if image is None else f"-{_slug(image.stem)}"
    return [PromptItem(f"{_slug(prompt)}{mark}-seed{seed}", prompt.strip(), image=image) for prompt in prompts]


def _refuse_no_text(prompt: str, where: str | None = None) -> None:
    """UserError for a prompt that says nothing, or that no tokenizer can read."""
    if not prompt.strip():
        raise UserError("the prompt is empty", where)
    # Bytes that are not UTF-8 reach us as lone surrogates, from the command line and from JSON's escapes.
    if any("\ud800" <= one <= "\udfff" for one in prompt):
        raise UserError("the prompt is not valid Unicode text", where, "write it as UTF-8")


def _slug(prompt: str) -> str:
    """The first words of a prompt as a file name, and a hash where that is not all of it."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))
    if words.split("-") == prompt.lower().split() and len(words) <= _SLUG:
        return words
    # What was left out may be all that two prompts differ in: a hash tells them apart.
    mark = hashlib.sha256(prompt.strip().encode()).hexdigest()[:6]
    return f"{words[:_SLUG].rstrip('-') or 'prompt'}-{mark}"


class _Checked:
    """Rows become items, one after the other; what is wrong with a row is kept for the end."""

    def __init__(self, path: Path, number: str) -> None:
        self.path, self.number = path, number
        self.items: list[PromptItem] = []
        self.bad: list[Bad] = []
        self._lines: dict[str, int] = {}
        self._images: dict[str, Path] = {}

    def take(self, row: Row) -> None:
        try:
            self.items.append(self._item(row))
        except UserError as error:
            self.bad.append(Bad(row.line, error.what, error.hint))

    def _item(self, row: Row) -> PromptItem:
        name = self.number.format(len(self.items) + len(self.bad)) if row.id is None else row.id
        _refuse_no_text(row.prompt)
        if not SAFE_ID.fullmatch(name):
            raise UserError(f"the id '{name}' cannot name a file", hint=ID_HINT)
        # Some file systems do not tell capitals from small letters.
        if name.lower() in self._lines:
            raise UserError(f"the id '{name}' was already given in line {self._lines[name.lower()]}")
        self._lines[name.lower()] = row.line
        image = None if row.image is None else self._image(row.image)
        return PromptItem(name, row.prompt.strip(), row.kept, image)

    def _image(self, given: str) -> Path:
        if given not in self._images:
            asked = Path(os.path.expanduser(given))
            found = next((place for place in (self.path.parent / asked, asked) if os.path.exists(place)), None)
            if found is None:
                raise UserError(
                    f"there is no image '{given}'", hint="it is looked for beside this file, then in the current folder"
                )
            try:
                read_image(found)
            except UserError as error:
                raise UserError(f"{given}: {error.what}", hint=error.hint) from error
            self._images[given] = found
        return self._images[given]


def _items(rows: Rows, path: Path, number: str) -> list[PromptItem]:
    checked = _Checked(path, number)
    for row in rows:
        if isinstance(row, Bad):
            checked.bad.append(row)
        else:
            checked.take(row)
    if checked.bad:
        raise _refusal(checked.bad, path)
    if not checked.items:
        raise UserError("it holds no prompts", str(path))
    return checked.items


def _refusal(bad: Sequence[Bad], path: Path) -> UserError:
    """One message for all bad rows."""
    if len(bad) == 1:
        return UserError(bad[0].what, f"{path}:{bad[0].line}", bad[0].hint)
    lines = [f"line {one.line}: {one.what}" for one in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"and {len(bad) - _SHOWN} more")
    hints = list(dict.fromkeys(one.hint for one in bad if one.hint is not None))
    return UserError(f"{len(bad)} rows cannot be used", str(path), "\n  ".join([*lines, *hints]))


def _txt(text: str, path: Path, columns: Columns) -> Rows:
    for line, prompt in enumerate(text.split("\n"), start=1):
        if prompt.strip():
            yield Row(line, prompt)


def _table(delimiter: str, text: str, path: Path, where: Columns) -> Rows:
    kind = {",": "CSV", "\t": "TSV"}[delimiter]
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="", delimiter=delimiter)
    last = 0
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        if columns and not set(where.prompt) & set(columns):
            told = f"no column {_either(where.prompt)} among: {', '.join(columns)}"
            between = {",": "commas", "\t": "tabs"}[delimiter]
            such = f"{where.prompt[0]} and {where.image}"
            hint = f"the first line names the columns, with {between} between them, such as {such}"
            raise UserError(told, f"{path}:1", hint)
        last = reader.line_num
        for row in reader:
            last = reader.line_num
            if "" in row and "" not in columns:
                hint = "put a prompt that has commas in double quotes" if delimiter == "," else None
                yield Bad(last, f"the row has more than {len(columns)} columns", hint)
            else:
                yield _row(row, last, where)
    except csv.Error as error:
        # An open quote is noticed at the end of the file: the row that it began is what the user must look at.
        hint = 'a text with quotation marks goes into quotes, and each of its own is doubled: """Hi"" he says"'
        yield Bad(last + 1, f"not valid {kind}: {error}", hint)


def _jsonl(text: str, path: Path, columns: Columns) -> Rows:
    for line, document in enumerate(text.split("\n"), start=1):
        if not document.strip():
            continue
        try:
            row = json.loads(document)
        except json.JSONDecodeError as error:
            yield Bad(line, f"not valid JSON: {error.msg} at column {error.colno}", "one object a line")
            continue
        except RecursionError:
            yield Bad(line, "not valid JSON: brackets in brackets without end", "one object a line")
            continue
        if isinstance(row, dict):
            yield _row(row, line, columns)
        else:
            yield Bad(line, 'each line must be an object such as {"prompt": "..."}')


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"'{name}'" for name in names)


def _row(row: Mapping[str, object], line: int, where: Columns) -> Row | Bad:
    prompt = next((row[column] for column in where.prompt if row.get(column) is not None), None)
    if not isinstance(prompt, str):
        what = "it has no prompt" if prompt is None else f"the prompt is {prompt!r}, not a text"
        return Bad(line, what, f"the prompt goes in {_either(where.prompt)}")
    name, image = row.get(where.id), row.get(where.image)
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        return Bad(line, f"the id is {name!r}, not a text or a number")
    if image is not None and not isinstance(image, str):
        return Bad(line, f"{where.image} is {image!r}, not a path")
    given = None if image is None or not image.strip() else image.strip()
    kept = {one: _plain(row[one]) for one in where.kept if row.get(one) is not None}
    return Row(line, prompt, None if name is None or name == "" else str(name), given, kept)


def _plain(value: object) -> str:
    """A value as text; lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


_READERS: dict[str, Callable[[str, Path, Columns], Rows]] = {
    ".txt": _txt,
    ".csv": partial(_table, ","),
    ".tsv": partial(_table, "\t"),
    ".jsonl": _jsonl,
}
