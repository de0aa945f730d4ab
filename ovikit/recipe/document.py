"""YAML read as plain data, with the line that every value stands on.

YAML 1.2 (``1e-4`` is a number, ``no`` is a word), one document, words as keys, no duplicate keys, no tags, no merge
keys, finite numbers: everything else is refused with its file and line.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ovikit.errors import UserError

Keys = tuple[str | int, ...]

_SCALARS = ("null", "bool", "int", "float", "str")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a file and line, or an override as it was typed (line 0)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, at a path inside a document."""

    keys: Keys
    message: str
    place: Place

    def __str__(self) -> str:
        return f"{self.place}: {self.told}"

    @property
    def told(self) -> str:
        return f"{dotted(self.keys)}: {self.message}" if self.keys else self.message


class RecipeError(UserError):
    """A recipe that cannot be used: every problem that was found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0].told, str(self.problems[0].place))
        else:
            super().__init__("\n  ".join([f"{len(self.problems)} errors", *map(str, self.problems)]))


@dataclass
class Source:
    """Plain data, and the place of each of its values by path; the root's path is ()."""

    data: dict[str, Any]
    places: dict[Keys, Place] = field(default_factory=dict[Keys, Place])

    def place(self, keys: Keys) -> Place:
        """The place of a value, or of the closest mapping around it."""
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.places:
                return self.places[keys[:length]]
        raise KeyError("a source without a root place")


def dotted(keys: Keys) -> str:
    return ".".join(str(key) for key in keys)


def mapping(value: object) -> dict[str, Any] | None:
    """The value if it is a mapping, typed; None if it is not."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def read_yaml(path: Path) -> Source:
    """The document of a file. RecipeError with file and line for whatever cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("there is no such file", str(path)) from None
    except UnicodeDecodeError as error:
        raise UserError("this is not a text file, and a recipe is wanted", str(path)) from error
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}", str(path)) from error
    source = Source({}, {(): Place(str(path), 1)})
    value = _Reader(str(path), source.places).read(text)
    data = mapping(value)
    if data is None:
        raise RecipeError([Problem((), f"the document should be a mapping, not {describe(value)}", source.places[()])])
    source.data = data
    return source


def read_value(text: str, origin: str) -> Any:
    """The value of a YAML expression, such as ``3``, ``1e-4``, ``ovi`` or ``[1, 2]``. RecipeError names ``origin``."""
    return _Reader(origin, {}, numbered=False).read(text)


def describe(value: object) -> str:
    """A value as an error shows it: scalars as written in YAML, containers by what they are."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


class _Reader:
    """Turns ruamel's nodes into plain data, noting places and problems on the way."""

    def __init__(self, file: str, places: dict[Keys, Place], numbered: bool = True) -> None:
        self.file, self.places, self.numbered = file, places, numbered
        self.problems: list[Problem] = []
        self.yaml: Any = YAML(typ="safe", pure=True)

    def read(self, text: str) -> Any:
        try:
            node = self.yaml.compose(io.StringIO(text))
        except YAMLError as error:
            raise RecipeError([self._syntax(error)]) from error
        value = None if node is None else self._value(node, (), ())
        if self.problems:
            raise RecipeError(self.problems)
        return value

    def _syntax(self, error: YAMLError) -> Problem:
        line, told = 1, str(error).partition("\n")[0]
        if isinstance(error, MarkedYAMLError):
            mark: Any = cast(Any, error).problem_mark
            line = mark.line + 1 if mark is not None else 1
            told = str(cast(Any, error).problem)
        return Problem((), f"this is not YAML: {told}", Place(self.file, line if self.numbered else 0))

    def _place(self, node: Any) -> Place:
        return Place(self.file, node.start_mark.line + 1 if self.numbered else 0)

    def _refuse(self, keys: Keys, message: str, node: Any) -> None:
        self.problems.append(Problem(keys, message, self._place(node)))

    def _value(self, node: Any, keys: Keys, above: tuple[Any, ...]) -> Any:
        self.places.setdefault(keys, self._place(node))
        if any(node is one for one in above):
            self._refuse(keys, "an alias to what contains it", node)
            return None
        tag = str(node.tag)
        if node.id == "mapping" and tag == "tag:yaml.org,2002:map":
            return dict(self._items(node, keys, (*above, node)))
        if node.id == "sequence" and tag == "tag:yaml.org,2002:seq":
            return [self._value(item, (*keys, i), (*above, node)) for i, item in enumerate(node.value)]
        if node.id == "scalar" and tag == "tag:yaml.org,2002:timestamp":
            return str(node.value)
        if node.id != "scalar" or tag.removeprefix("tag:yaml.org,2002:") not in _SCALARS:
            self._refuse(keys, f"tags are not allowed: {tag.replace('tag:yaml.org,2002:', '!!')}", node)
            return None
        value = self.yaml.constructor.construct_object(node)
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(keys, f"should be a finite number, not {node.value}", node)
        return value

    def _items(self, node: Any, keys: Keys, above: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Any] = {}
        for key_node, value_node in node.value:
            tag = str(key_node.tag).removeprefix("tag:yaml.org,2002:")
            key = str(key_node.value)
            if tag == "merge":
                self._refuse(keys, "merge keys (<<) are not allowed; a recipe builds on another with extends", key_node)
            elif tag != "str":
                self._refuse(keys, f"a key should be a word, not {key}", key_node)
            elif key in seen:
                first = seen[key].start_mark.line + 1
                self._refuse((*keys, key), f"the key is written twice, first on line {first}", key_node)
            else:
                seen[key] = key_node
                self.places[(*keys, key)] = self._place(key_node)
                yield key, self._value(value_node, (*keys, key), above)
