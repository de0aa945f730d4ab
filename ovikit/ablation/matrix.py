"""A matrix: a base recipe, the axes along which it is changed, seeds and a budget. Torch-free.

    version: 1
    name: fusion
    base: base.yaml
    seeds: [0, 1, 2]
    budget: {steps: 600}
    axes:
      fusion:
        ovi: {}                                  # the first arm of each axis is what the others are compared with
        bridge: {model.fusion: {type: bridge}}   # overrides: path, value
        child: {recipe: child.yaml}              # or another recipe in the base's place

Every combination of arms is a recipe of its own; every combination with every seed is a cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ovikit.kernel.manager import installed_catalog
from ovikit.recipe.document import Problem, RecipeError, mapping
from ovikit.recipe.load import read_source
from ovikit.recipe.models import Document, Section, Seed
from ovikit.recipe.overrides import apply_overrides
from ovikit.recipe.validate import validate

RECIPE = "recipe"
"""The key of an arm that names another recipe; all others are paths within the recipe."""
Arm = Mapping[str, Any]


class Budget(Section):
    """How long each cell trains: the same for all, in one of the two units."""

    steps: PositiveInt | None = None
    """Optimizer steps."""
    seconds: PositiveFloat | None = None
    """Seconds of training: each recipe gets the steps that it is measured to make in that time on this machine, the
    same for all its seeds."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Budget:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("give either steps or seconds")
        return self


class Matrix(Document):
    """What is compared."""

    question: str = ""
    """What the comparison is to answer; printed above the report."""
    base: str
    """The recipe that the axes change; a relative path starts from the matrix's folder."""
    suite: str | None = None
    """The evaluation suite; null: the base recipe's own."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)] = (0, 1, 2)
    """Each cell's weights, batches and training noise are drawn from one of them. The noise that clips are sampled from
    is the same in all cells."""
    budget: Budget
    """How long each cell trains."""
    measurements: PositiveInt = 1
    """How often each cell is measured: evenly over its steps, the last time at its end."""
    metrics: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The metrics to report, the most important first; default: all that the suite gives, in its order."""
    equivalence: NonNegativeFloat | None = None
    """Differences of the first metric below this make no practical difference; null: nothing is said of it."""
    axes: dict[str, dict[str, dict[str, Any] | None]]
    """By name, the arms of each axis; by name, what each arm changes, null or {} for nothing. The first arm of each is
    the baseline's."""

    @model_validator(mode="after")
    def _arms_are_sound(self) -> Matrix:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed twice")
        if self.budget.steps is not None and self.budget.steps % self.measurements:
            raise ValueError(f"{self.budget.steps} steps are no multiple of {self.measurements} measurements")
        if not self.axes:
            raise ValueError("axes names no axis")
        for name, arms in self.axes.items():
            if not arms:
                raise ValueError(f"axis '{name}' has no arms")
            for arm, changes in arms.items():
                if not isinstance((changes or {}).get(RECIPE, ""), str):
                    raise ValueError(f"axes.{name}.{arm}.recipe should be the path of a recipe")
        return self

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.source.parent if self.source else Path()

    @property
    def suite_path(self) -> Path | None:
        """The suite that the matrix names; None: the recipes'."""
        return None if self.suite is None else self.folder / self.suite

    def arms(self) -> Iterator[tuple[dict[str, str], Path, dict[str, Any]]]:
        """(arm of each axis, recipe, overrides by path) of every combination, the baseline first.

        RecipeError where two axes of a combination name a recipe, or change the same path.
        """
        for names in product(*self.axes.values()):
            chosen = dict(zip(self.axes, names, strict=True))
            recipe, changes = self.base, dict[str, Any]()
            for axis, name in chosen.items():
                for path, value in (self.axes[axis][name] or {}).items():
                    if path == RECIPE:
                        self._refuse(recipe != self.base, chosen, "two axes name a recipe")
                        recipe = cast(str, value)
                    else:
                        self._refuse(path in changes, chosen, f"two axes set {path}")
                        changes[path] = value
            # A slot comes before its options, whichever axis names which: it would take the options away again.
            yield chosen, self.folder / recipe, {path: changes[path] for path in sorted(changes, key=_depth)}

    def _refuse(self, wrong: bool, chosen: Mapping[str, str], why: str) -> None:
        if wrong:
            raise RecipeError([Problem(("axes",), f"{why}: {label(chosen)}", _place(self))])


def _depth(path: str) -> float:
    """How deep a path lies; the type of a slot comes before its other options."""
    return path.count(".") - (0.5 if path.endswith(".type") else 0.0)


def label(chosen: Mapping[str, str]) -> str:
    """How a combination of arms is called: ``bridge``, or ``bridge / native`` where there are two axes."""
    return " / ".join(chosen.values())


def _place(matrix: Matrix) -> Any:
    return read_source(matrix.source).place(("axes",)) if matrix.source else None


def load_matrix(path: Path | str, overrides: Sequence[str] = ()) -> Matrix:
    """The matrix of a file, with ``overrides`` (``path=value``) applied. RecipeError with file, line and path of every
    problem."""
    path, catalog = Path(path), installed_catalog()
    source = read_source(path)
    if "axes" not in source.data and mapping(source.data.get("model")) is not None:
        message = "this is a recipe, and a matrix is wanted: it has base, seeds, budget and axes"
        raise RecipeError([Problem((), message, source.place(()))])
    apply_overrides(Matrix, source, overrides, catalog)
    return validate(Matrix, source, catalog).read_from(path)
