"""A matrix to cells: which recipe each is, what identifies it, and which of them share a training. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovikit.ablation.matrix import Matrix, label, load_matrix
from ovikit.errors import UserError
from ovikit.recipe.diff import Difference, recipe_differences
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.recipe.models import Recipe, Suite, digest_of

_FORMAT = 1
"""Changes when a cell of the same digest would be run or measured differently."""
_SHORT = 16
SET_BY_MATRIX = (
    "model.seed", "training.seed", "training.trainer.max_steps", "training.trainer.checkpoint_every_steps",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arm:
    """One combination of arms: the recipe with its overrides, before seeds and budget.

    recipe:  None where the combination is no valid recipe; ``refused`` says why
    changes: what differs from the baseline's recipe, in words
    """

    chosen: Mapping[str, str]
    path: Path
    overrides: tuple[str, ...]
    recipe: Recipe | None
    refused: str | None
    changes: tuple[str, ...]

    @property
    def label(self) -> str:
        return label(self.chosen)


@dataclass(frozen=True, slots=True)
class Cell:
    """One recipe with one seed, trained and measured.

    digest:   of all that its numbers depend on: the recipe, the suite, the steps it is measured at
    training: digest of what its weights depend on: cells that differ in sampling or measuring alone share it
    """

    arm: Arm
    seed: int
    recipe: Recipe
    suite: Path
    measured_at: tuple[int, ...]
    digest: str
    training: str

    @property
    def label(self) -> str:
        return f"{self.arm.label} seed {self.seed}"

    @property
    def steps(self) -> int:
        return self.measured_at[-1]


def arms_of(matrix: Matrix) -> list[Arm]:
    """Every combination, the baseline first. UserError where the baseline itself is no valid recipe."""
    found: list[Arm] = []
    for chosen, path, changes in matrix.arms():
        overrides = tuple(f"{where}={json.dumps(value)}" for where, value in changes.items())
        recipe, refused, told = None, None, ()
        try:
            recipe = _comparable(path, changes, load_recipe(path, overrides))
            if found and (first := found[0].recipe) is not None:
                told = tuple(_told(one, changes) for one in recipe_differences(first, recipe))
        except UserError as error:
            if not found:
                raise
            refused = error.render()
        told = tuple(one for one in told if not one.startswith("name:"))
        found.append(Arm(chosen, path, overrides, recipe, refused, told))
    return found


def _comparable(path: Path, changes: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe. UserError where it cannot be a cell's."""
    if recipe.training is None:
        raise UserError(f"recipe '{recipe.name}' has no training section", str(path))
    for where in changes:
        if where in SET_BY_MATRIX:
            raise UserError("the matrix sets it: change its seeds, its budget or its measurements", where)
        if where.split(".")[0] in ("runtime", "evaluation", "name"):
            raise UserError("it is no part of what a recipe's numbers depend on, so there is nothing to compare", where)
    return recipe


def training_digest(recipe: Recipe) -> str:
    """Of what a recipe's weights depend on, and how long they take to learn: neither its name, nor its sampling, nor
    how often it is saved on the way."""
    data = _nameless(recipe)
    return digest_of({key: value for key, value in data.items() if key != "sampling"})


def _nameless(recipe: Recipe) -> dict[str, Any]:
    data = recipe.to_dict()
    del data["name"], data["training"]["trainer"]["checkpoint_every_steps"]  # neither changes a number
    return data


def _told(one: Difference, changes: Mapping[str, Any]) -> str:
    """A difference in a line; a slot whose component changes by its name, with the options that the arm writes."""
    if not (isinstance(one.new, Mapping) and isinstance(one.old, Mapping) and "type" in one.new):
        return f"{one.path}: {_plain(one.old)} -> {_plain(one.new)}"
    written: dict[str, Any] = {}
    for path, value in changes.items():
        if path == one.path and isinstance(value, Mapping):
            written |= {key: option for key, option in value.items() if key != "type"}
        elif path.startswith(f"{one.path}.") and not path.endswith(".type"):
            written[path.removeprefix(f"{one.path}.")] = value
    options = f" {_plain(written)}" if written else ""
    return f"{one.path}: {one.old.get('type')} -> {one.new['type']}{options}"


def _plain(value: Any) -> str:
    """A value as one would write it in YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def cells_of(matrix: Matrix, arm: Arm, steps: int) -> list[Cell]:
    """The cells of a combination that trains ``steps`` steps: one for each seed."""
    assert arm.recipe is not None
    every = steps // matrix.measurements
    points = range(every, every * matrix.measurements + 1, every)
    suite = matrix.suite_path or arm.recipe.suite_path()
    if suite is None:
        raise UserError(
            f"nothing says how recipe '{arm.recipe.name}' is measured",
            str(matrix.source),
            "add suite to the matrix, or evaluation.suite to the recipe",
        )
    measured = load_suite(suite)
    return [_cell(arm, seed, points, suite, measured) for seed in matrix.seeds]


def _cell(arm: Arm, seed: int, points: Sequence[int], suite: Path, measured: Suite) -> Cell:
    fixed = (
        f"model.seed={seed}",
        f"training.seed={seed}",
        f"training.trainer.max_steps={points[-1]}",
        f"training.trainer.checkpoint_every_steps={points[0]}",
    )
    recipe = load_recipe(arm.path, (*arm.overrides, *fixed))
    told = digest_of(_nameless(recipe))
    whole = {"format": _FORMAT, "recipe": told, "suite": measured.digest, "points": list(points)}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return Cell(arm, seed, recipe, suite, tuple(points), digest[:_SHORT], training_digest(recipe)[:_SHORT])


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a matrix asks for. cells: of the valid arms, seed by seed, so that a run cut short has whole pairs."""

    matrix: Matrix
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]

    @property
    def trainings(self) -> int:
        """How many models are trained for them."""
        return len({cell.training for cell in self.cells})

    def of(self, arm: Arm) -> list[Cell]:
        return [cell for cell in self.cells if cell.arm is arm]


def plan_of(matrix: Matrix, arms: Sequence[Arm], steps: Mapping[str, int]) -> Plan:
    """The plan of a matrix. steps: of each valid arm, by its label. UserError where its arms are measured by different
    suites."""
    by_arm = [cells_of(matrix, arm, steps[arm.label]) for arm in arms if arm.recipe is not None]
    if len({load_suite(cells[0].suite).digest for cells in by_arm}) > 1:
        raise UserError(
            "its recipes name different suites, whose numbers cannot be compared", str(matrix.source), "set suite in it"
        )
    by_seed = [cells[i] for i in range(len(matrix.seeds)) for cells in by_arm]
    return Plan(matrix, tuple(arms), tuple(by_seed))


__all__ = ["Arm", "Cell", "Plan", "arms_of", "cells_of", "load_matrix", "plan_of"]
