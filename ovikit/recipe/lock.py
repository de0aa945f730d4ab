"""A recipe as it was run: every value, the versions of what read it, and a digest to hold it to."""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter

from ovikit.errors import UserError
from ovikit.files import atomic_write_text, sha256_of
from ovikit.kernel.catalog import Catalog
from ovikit.kernel.manager import installed_catalog, installed_plugins
from ovikit.recipe.models import Recipe
from ovikit.recipe.sections import Section, Slot

PACKAGES = ("ovikit", "torch", "numpy", "lightning", "av", "safetensors")


def slots_of(section: Section) -> Iterator[Slot]:
    """Every filled slot of a recipe or suite."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        for item in value if isinstance(value, tuple) else (value,):  # pyright: ignore[reportUnknownVariableType]
            if isinstance(item, Slot):
                yield item
            elif isinstance(item, Section):
                yield from slots_of(item)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers; asked of the metadata, nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def plugin_versions(recipe: Recipe, catalog: Catalog) -> dict[str, str]:
    """The distribution and version behind each component that the recipe uses."""
    used = {(slot.kind, slot.type): catalog.find(slot.kind, slot.type).plugin for slot in slots_of(recipe)}
    return {
        f"{kind}/{name}": f"{plugin.distribution} {plugin.version}" for (kind, name), plugin in sorted(used.items())
    }


def locked(
    recipe: Recipe,
    catalog: Catalog | None = None,
    folder: Path | None = None,
    checkpoint_sha256: str | None = None,
    initial_sha256: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of the recipe's lock file: the resolved recipe, and a ``lock`` section that loading verifies.

    folder: where the lock file will lie; the suite's path is rewritten to start there
    checkpoint_sha256: of the recipe's checkpoint where it has been read; default: of the file that plugins resolve
    initial_sha256: of the files in ``training.initial``, by path, where they have been read
    """
    data = recipe.to_dict()
    suite = recipe.suite_path()
    if suite is not None and folder is not None:
        data["evaluation"]["suite"] = Path(os.path.relpath(suite, folder)).as_posix()
    lock: dict[str, Any] = {
        "digest": recipe.digest,
        "versions": versions(),
        "components": plugin_versions(recipe, catalog or installed_catalog()),
    }
    if recipe.model.checkpoint is not None and checkpoint_sha256 is not None:
        lock["checkpoint_sha256"] = checkpoint_sha256
    elif recipe.model.checkpoint is not None:
        path = installed_plugins().resolve_asset(recipe.model.checkpoint.path)
        if not path.is_file():
            raise UserError("a checkpoint is one file", str(path))
        lock["checkpoint_sha256"] = sha256_of(path)
    if initial_sha256:
        lock["initial_sha256"] = dict(initial_sha256)
    return {**data, "lock": lock}


def write_lock(
    recipe: Recipe,
    path: Path | str,
    catalog: Catalog | None = None,
    checkpoint_sha256: str | None = None,
    initial_sha256: Mapping[str, str] | None = None,
) -> None:
    """Writes the recipe's lock file, complete or not at all. It loads as a recipe. Arguments as in ``locked``."""
    path = Path(path)
    atomic_write_text(path, dump_yaml(locked(recipe, catalog, path.parent, checkpoint_sha256, initial_sha256)))


def dump_yaml(data: dict[str, Any]) -> str:
    """Plain data as YAML 1.2: keys in their order, lists on one line."""
    yaml: Any = YAML()
    yaml.Representer = _Representer
    yaml.width = 4096
    buffer = io.StringIO()
    yaml.dump(_inline_lists(data), buffer)
    return buffer.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes null as a word, where ruamel would write nothing."""


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _null)  # pyright: ignore[reportUnknownMemberType]


def _inline_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inline_lists(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list) and not any(isinstance(item, dict) for item in value):  # pyright: ignore[reportUnknownVariableType]
        inline: Any = CommentedSeq(value)
        inline.fa.set_flow_style()
        return inline
    if isinstance(value, list):
        return [_inline_lists(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
