"""What a process does from which one plugin package was removed: run as ``python without_one.py PACKAGE TASKS``.

TASKS is a JSON list of [name, arguments]; what each gives is printed as JSON. A removed package is one that cannot be
found, while the entry point of its plugin is still there. PACKAGE is ``-`` where nothing is removed.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


class _Gone(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def command(words: Sequence[str]) -> dict[str, Any]:
    """How ``ovikit WORDS`` ends, and what it prints."""
    from ovikit.cli import main

    out, err, code = io.StringIO(), io.StringIO(), None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def commands(given: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """How several commands end, one after another in this process; none of them may load torch."""
    found = [command(words) for words in given]
    assert "torch" not in sys.modules
    return found


def missing(given: Sequence[tuple[str, str]]) -> list[str]:
    """The error about each (kind, name)."""
    from ovikit.kernel.catalog import UnknownComponentError
    from ovikit.kernel.manager import installed_catalog

    found: list[str] = []
    for kind, name in given:
        try:
            installed_catalog().find(kind, name)
        except UnknownComponentError as error:
            found.append(error.what)
    return found


def refused_arms(matrix: str) -> dict[str, str | None]:
    """By arm of a matrix, why it is refused."""
    from ovikit.ablation.cells import arms_of, load_matrix

    return {arm.label: arm.refused for arm in arms_of(load_matrix(Path(matrix)))}


def affinity(recipe: str) -> dict[str, Any]:
    """How ``ovikit figures rope-affinity`` ends for a recipe of the test kit's parts."""
    _add_kit()
    return command(["figures", "rope-affinity", recipe, "--before", "native", "--out", f"{recipe}.png"])


def build(recipes: Sequence[str]) -> list[int]:
    """The parameters of each recipe's network, built on the meta device with all that goes with it."""
    from ovikit.recipe import build
    from ovikit.recipe.load import load_recipe

    found: list[int] = []
    for path in recipes:
        recipe = load_recipe(path)
        model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe), "meta")
        build.build_sampling(recipe)
        found.append(sum(parameter.numel() for parameter in model.parameters()))
    return found


def train(recipe: str, run: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains a recipe, which may use the test kit's parts; how many weights there are, and whether all are finite."""
    from safetensors.torch import load_file

    from ovikit.recipe.load import load_recipe
    from ovikit.training import run as runs

    _add_kit()
    runs.train(load_recipe(recipe, overrides), Path(run))
    weights = load_file(Path(run) / "weights.safetensors")
    return {"weights": len(weights), "finite": all(bool(value.isfinite().all()) for value in weights.values())}


def _add_kit() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
    from training_kit import KitPlugin

    from ovikit.kernel.catalog import Plugin
    from ovikit.kernel.manager import installed_plugins

    plugins = installed_plugins()
    if "kit" not in plugins.loaded:
        plugins.add(Plugin("kit", "kit-dist", "1.0"), KitPlugin())


TASKS = {one.__name__: one for one in (commands, missing, refused_arms, affinity, build, train)}

if __name__ == "__main__":
    removed, tasks = sys.argv[1:]
    if removed != "-":
        sys.meta_path.insert(0, _Gone(removed))
    result = [TASKS[name](*arguments) for name, *arguments in json.loads(tasks)]
    print(json.dumps(result))  # noqa: T201
