"""The folder of a training run: where its files lie, and what state it is in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ovikit.checkpoints.load import read_metadata, write_tensors
from ovikit.checkpoints.lora import write_adapters
from ovikit.errors import UserError
from ovikit.layout import ADAPTERS, CHECKPOINTS, LAST_CHECKPOINT, LOCK, METRICS, WEIGHTS
from ovikit.recipe.diff import differences
from ovikit.recipe.document import read_yaml
from ovikit.recipe.models import PLACEMENT, Recipe
from ovikit.training.checkpoints import read_checkpoint
from ovikit.training.sharded import read_step


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. ``ovikit generate`` reads the recipe's lock and the weights."""

    path: Path
    adapters: bool = False
    """Whether the run trains adapters, which it ends with in place of weights."""

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def last(self) -> Path:
        return self.checkpoints / LAST_CHECKPOINT

    @property
    def weights(self) -> Path:
        return self.path / (ADAPTERS if self.adapters else WEIGHTS)

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def refuse_other_recipe(self, recipe: Recipe) -> None:
        """UserError when the folder holds a run of another recipe, saying where the two differ. A run that came to
        no checkpoint, because its data was not found for instance, stands in nobody's way."""
        if not self.lock.exists() or not (self.last.exists() or self.weights.exists()):
            return
        data = read_yaml(self.lock).data
        if data.pop("lock", {}).get("digest") == recipe.digest:
            return
        ours = recipe.to_dict()
        for document in (data, ours):
            for key in ("runtime", "evaluation", "preparation"):
                document.pop(key, None)
            (document.get("training") or {}).pop("validation", None)
            for key in PLACEMENT:
                ((document.get("training") or {}).get("trainer") or {}).pop(key, None)
        found = [f"{one.path}: {one.old} there, {one.new} here" for one in differences(data, ours)]
        shown = "\n    ".join(found[:6]) + ("\n    ..." if len(found) > 6 else "")
        raise UserError(
            f"this folder holds a run of another recipe ('{data.get('name')}')\n    {shown}",
            str(self.path),
            "give another folder with --run, or delete this one",
        )

    def finished_step(self) -> int | None:
        """The step that the final weights were written at, or None before the run is finished."""
        if not self.weights.exists():
            return None
        try:
            return int(read_metadata(self.weights)["step"])
        except (UserError, KeyError) as error:
            reason = error.what if isinstance(error, UserError) else "their metadata names no step"
            raise UserError(
                f"these weights cannot be read ({reason})", str(self.weights), "delete them and go on with --resume"
            ) from error

    def newest(self) -> tuple[int, Path, tuple[UserError, ...]] | None:
        """Step and path of the newest checkpoint that can be read, and what is wrong with newer ones; None where there
        is none at all. UserError where none can be read."""
        if not self.last.exists():
            return None
        wrong: list[UserError] = []
        for path in (self.last, *sorted(self.checkpoints.glob("step-*.ckpt"), reverse=True)):
            try:
                step = read_step(path) if path.is_dir() else int(read_checkpoint(path)["global_step"])
            except UserError as error:
                wrong.append(error)
                continue
            return step, path, tuple(wrong)
        raise UserError(wrong[0].what, wrong[0].where, "no other checkpoint of this run can be read: begin again")

    def write_weights(self, tensors: dict[str, Tensor], recipe: Recipe, step: int, averaged: bool) -> None:
        """Writes the final weights, complete or not at all, with what they are in the metadata."""
        metadata = {
            "format": "ovikit",
            "recipe": recipe.name,
            "digest": recipe.digest,
            "step": str(step),
            "weights": "ema" if averaged else "last",
        }
        if self.adapters:
            assert recipe.training is not None
            assert recipe.training.lora is not None
            write_adapters(self.weights, tensors, recipe.training.lora.alpha, metadata)
        else:
            write_tensors(self.weights, tensors, metadata)
