"""What differs between two resolved recipes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ovikit.recipe.models import Recipe


@dataclass(frozen=True, slots=True)
class Difference:
    """One path whose value differs; ``ABSENT`` where a recipe does not have it."""

    path: str
    old: Any
    new: Any


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


def recipe_differences(old: Recipe, new: Recipe) -> Iterator[Difference]:
    """What differs between two recipes; their suites are compared by the files that they are."""
    return differences(_placed(old), _placed(new))


def _placed(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, with its suite's path as seen from the current folder instead of the recipe's."""
    data, suite = recipe.to_dict(), recipe.suite_path()
    if suite is not None:
        data["evaluation"]["suite"] = os.path.relpath(suite.resolve())
    return data


def _mapping(value: object) -> Mapping[str, Any] | None:
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[Difference]:
    """Each differing path of two plain documents, in the order of the first, then what only the second has.

    Where a slot's ``type`` differs the slot differs as a whole: the options of two components do not compare.
    """
    for key in [*old, *(key for key in new if key not in old)]:
        path, a, b = f"{above}{key}", old.get(key, ABSENT), new.get(key, ABSENT)
        one, other = _mapping(a), _mapping(b)
        if one is not None and other is not None and one.get("type") == other.get("type"):
            yield from differences(one, other, f"{path}.")
            continue
        if type(a) is not type(b) or a != b:
            yield Difference(path, a, b)
