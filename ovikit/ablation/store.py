"""Where cells lie on disk, and what state each is in. Torch-free.

    STORE/cells/DIGEST/     cell.json (what it is, then what it measured), log.txt, step-000600/{clips, results.json}
    STORE/trainings/DIGEST-N/ a training run with N measurements, shared by cells that differ in sampling alone
    STORE/latents/          encoded data sets; STORE/truth/DIGEST/ ground-truth clips
    STORE/NAME/             a matrix's plan, tables, figures and report

Cells of all matrices lie together: what one matrix has run, another finds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ovikit.ablation.cells import Cell
from ovikit.files import atomic_write_json
from ovikit.layout import CHECKPOINTS, WEIGHTS
from ovikit.recipe.models import digest_of

State = Literal["finished", "failed", "begun", "new"]
RECORD = "cell.json"
LOG = "log.txt"


@dataclass(frozen=True, slots=True)
class Store:
    """The folder that all matrices share."""

    path: Path

    def cell(self, cell: Cell) -> Path:
        return self.path / "cells" / cell.digest

    def training(self, cell: Cell) -> Path:
        """The folder of a cell's training: its own, unless a finished one has all that the cell measures."""
        folder = self.path / "trainings"
        own = folder / f"{cell.training}-{len(cell.measured_at)}"
        others = sorted(folder.glob(f"{cell.training}-*"))
        return next((one for one in (own, *others) if _has(one, cell.measured_at)), own)

    @property
    def latents(self) -> Path:
        return self.path / "latents"

    def truth(self, cell: Cell, suite_digest: str) -> Path:
        """The folder of the ground truth of a suite through a cell's codecs, in the form of its clips."""
        form = {"clip": cell.recipe.clip.to_dict(), "codecs": cell.recipe.model.codecs.to_dict()}
        return self.path / "truth" / digest_of({"suite": suite_digest, **form})[:16]

    def matrix(self, name: str) -> Path:
        return self.path / name

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """What is known of a cell that was begun; None of one that was not, or whose record cannot be read."""
        try:
            found = json.loads((self.cell(cell) / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found if isinstance(found, dict) and found.get("digest") == cell.digest else None

    def state(self, cell: Cell) -> State:
        record = self.record(cell)
        return "new" if record is None else record["state"]

    def write(self, cell: Cell, state: State, told: Mapping[str, Any]) -> None:
        """Writes a cell's record, whole or not at all."""
        known = {"digest": cell.digest, "training": cell.training, "recipe": cell.recipe.name, "seed": cell.seed}
        atomic_write_json(self.cell(cell) / RECORD, {"state": state, **known, **told})


def checkpoint_name(step: int) -> str:
    """The file that a training keeps of a step on its way."""
    return f"step-{step:06d}.ckpt"


def _has(training: Path, points: Sequence[int]) -> bool:
    """Whether a training is finished and kept a checkpoint of each point but the last, which is its end."""
    kept = all((training / CHECKPOINTS / checkpoint_name(step)).is_file() for step in points[:-1])
    return kept and (training / WEIGHTS).is_file()
