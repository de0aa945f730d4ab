"""A recipe file to a validated recipe: ``extends``, then overrides, then the slots.

Mappings merge, lists replace, and changing ``type`` drops the parent's other keys of that slot: an ablation
is two or three lines, and its difference from the parent is the experiment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ovikit.errors import UserError
from ovikit.kernel.catalog import Catalog
from ovikit.kernel.events import RecipeValidated
from ovikit.kernel.manager import fire, installed_catalog
from ovikit.recipe.document import Keys, Place, Problem, RecipeError, Source, describe, mapping, read_yaml
from ovikit.recipe.models import VERSION, Cascade, Document, Recipe, Suite, digest_of
from ovikit.recipe.overrides import apply_overrides
from ovikit.recipe.validate import validate

D = TypeVar("D", bound=Document)
LOCK = "lock"
PROFILES = "profiles"
OTHERS = {
    "axes": "this is a matrix of recipes, and one recipe is wanted; ovikit ablate runs it",
    "cascade": "this is a cascade of two models' files, and a recipe is wanted; ovikit cascade runs it",
}
"""What a file is that has this key, and is no recipe."""


def load_recipe(path: Path | str, overrides: Sequence[str] = (), catalog: Catalog | None = None) -> Recipe:
    """The recipe of a file, with ``overrides`` (``path=value``) applied. Observers are told that it is valid.

    catalog: what slots may name; None: the installed plugins
    Raises RecipeError with file, line and path of every problem.
    """
    recipe = _load(Recipe, Path(path), overrides, catalog)
    fire(RecipeValidated(recipe.name, recipe.digest, Path(path)))
    return recipe


def load_suite(
    path: Path | str, overrides: Sequence[str] = (), catalog: Catalog | None = None, profile: str | None = None
) -> Suite:
    """The evaluation suite of a file: read, extended, overridden and validated as recipes are.

    profile: one of the file's ``profiles``, or its own; None: its own
    """
    return _load(Suite, Path(path), overrides, catalog, lambda source: _choose(source, profile))


def load_cascade(path: Path | str, overrides: Sequence[str] = ()) -> Cascade:
    """The cascade of a file: read, extended, overridden and validated as recipes are."""
    return _load(Cascade, Path(path), overrides, None)


def profiles_of(path: Path | str) -> tuple[str, ...]:
    """The profiles that a suite can be run with, its own first."""
    data = read_source(Path(path)).data
    return str(data.get("profile")), *(mapping(data.get(PROFILES)) or {})


def _load(
    model: type[D],
    path: Path,
    overrides: Sequence[str],
    catalog: Catalog | None,
    choose: Callable[[Source], None] = lambda source: None,
) -> D:
    known = installed_catalog() if catalog is None else catalog
    source = read_source(path)
    choose(source)
    for key, told in OTHERS.items() if model is Recipe else ():
        if key in source.data:
            raise RecipeError([Problem((), told, source.place(()))])
    lock = source.data.pop(LOCK, None)
    if lock is not None:
        _refuse_edited(source, lock)
    apply_overrides(model, source, overrides, known)
    document = validate(model, source, known).read_from(path)
    if lock is not None and not overrides and document.digest != lock["digest"]:
        raise UserError(
            f"the installed plugins read this lock file differently: its digest is {lock['digest'][:16]}, "
            f"here it resolves to {document.digest[:16]}",
            str(source.place((LOCK, "digest"))),
            "install the versions that its lock section names",
        )
    return document


def _choose(source: Source, profile: str | None) -> None:
    """Lays what a profile has over the suite. A profile is also known by the part of its name before ``@`` or ``-``."""
    place = source.place((PROFILES,))
    others = source.data.pop(PROFILES, None)
    told = mapping({} if others is None else others)
    if told is None or not all(mapping(one) is not None for one in told.values()):
        raise RecipeError([Problem((PROFILES,), "should be a mapping of names to what they change", place)])
    own = source.data.get("profile")
    if profile is None or profile in (own, _short(str(own))):
        return
    found = [name for name in told if profile in (name, _short(name))]
    if len(found) != 1:
        there = ", ".join(str(one) for one in (own, *told))
        what = f"there are several profiles '{profile}'" if found else f"there is no profile '{profile}'"
        raise UserError(f"{what} of this suite; there are: {there}", str(source.place(())))
    chosen = told[found[0]]
    for key in chosen:
        source.places = {keys: one for keys, one in source.places.items() if keys[:1] != (key,)}
    prefix = (PROFILES, found[0])
    source.places |= {keys[2:]: one for keys, one in source.places.items() if keys[:2] == prefix and len(keys) > 2}
    source.data |= {**chosen, "profile": found[0]}


def _short(profile: str) -> str:
    return profile.partition("@")[0] if "@" in profile else profile.rpartition("-")[0]


def _refuse_edited(source: Source, lock: Any) -> None:
    """RecipeError when a lock file's content is not what its digest says."""
    told = (mapping(lock) or {}).get("digest")
    if not isinstance(told, str):
        raise RecipeError([Problem((LOCK, "digest"), "is missing", source.place((LOCK,)))])
    found = digest_of(source.data)
    if found != told:
        message = (
            f"this file was changed after it was locked: its digest is {told[:16]}, its content gives {found[:16]}"
        )
        raise RecipeError([Problem((LOCK, "digest"), message, source.place((LOCK, "digest")))])


def read_source(path: Path, above: tuple[Path, ...] = ()) -> Source:
    """The merged data of a file and its ancestors, each value with the place that it was written."""
    source = read_yaml(path)
    if "version" in source.data and source.data["version"] != VERSION:
        message = f"version {describe(source.data['version'])} is not known here; this ovikit reads version {VERSION}"
        raise RecipeError([Problem(("version",), message, source.place(("version",)))])
    if "extends" not in source.data:
        return source
    parent_name, place = source.data.pop("extends"), source.place(("extends",))
    if not isinstance(parent_name, str):
        message = f"should be the path of one recipe, not {describe(parent_name)}"
        raise RecipeError([Problem(("extends",), message, place)])
    parent_path = path.parent / parent_name
    line = (*above, path)
    if any(_same(parent_path, one) for one in line):
        chain = " -> ".join(one.name for one in (*line, parent_path))
        raise RecipeError([Problem(("extends",), f"a recipe cannot extend itself: {chain}", place)])
    if not parent_path.is_file():
        raise RecipeError([Problem(("extends",), f"there is no file {parent_path}", place)])
    parent = read_source(parent_path, line)
    parent.data.pop(LOCK, None)
    # A name is what tells two recipes apart: it is not inherited.
    parent.data.pop("name", None)
    _rebase_suite(parent, parent_path.parent, path.parent)
    return merge(parent, source)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _rebase_suite(source: Source, old: Path, new: Path) -> None:
    """Rewrites the suite's path, relative to the folder ``old``, as relative to ``new``."""
    evaluation = mapping(source.data.get("evaluation"))
    if evaluation is not None and isinstance(suite := evaluation.get("suite"), str) and not Path(suite).is_absolute():
        evaluation["suite"] = Path(os.path.relpath(old / suite, new)).as_posix()


def merge(parent: Source, child: Source) -> Source:
    """The child's data laid over the parent's."""
    merged = Source({}, {(): child.places[()]})
    merged.data = _merge_mappings(parent, child, (), merged.places)
    return merged


def _merge_mappings(parent: Source, child: Source, keys: Keys, places: dict[Keys, Place]) -> dict[str, Any]:
    old, new = _at(parent.data, keys), _at(child.data, keys)
    merged: dict[str, Any] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        here = (*keys, key)
        both = mapping(old.get(key)) is not None and mapping(new.get(key)) is not None
        if both and not changes_type(old[key], new[key]):
            places[here] = child.places[here]
            merged[key] = _merge_mappings(parent, child, here, places)
        else:
            owner, data = (child, new) if key in new else (parent, old)
            merged[key] = data[key]
            places.update({one: place for one, place in owner.places.items() if one[: len(here)] == here})
    return merged


def _at(data: dict[str, Any], keys: Keys) -> dict[str, Any]:
    for key in keys:
        data = data[str(key)]
    return data


def changes_type(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a slot's new data names another component than the old, whose options then mean nothing."""
    return "type" in new and new["type"] != old.get("type")
