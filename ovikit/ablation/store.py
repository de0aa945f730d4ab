"""Where cells lie on disk, and what state each is in. Torch-free.

    STORE/cells/DIGEST/     cell.json (what it is, then what it measured), log.txt, step-000600/{clips, results.json}
    STORE/trainings/DIGEST/ the training run that cells share which differ in sampling alone
    STORE/latents/          encoded data sets; STORE/truth/DIGEST/ ground-truth clips
    STORE/NAME/             a matrix's plan, tables, figures and report

Cells of all matrices lie together: what one matrix has run, another finds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ovikit.ablation.cells import Cell
from ovikit.files import atomic_write_json

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
        return self.path / "trainings" / cell.training

    @property
    def latents(self) -> Path:
        return self.path / "latents"

    def truth(self, suite_digest: str) -> Path:
        return self.path / "truth" / suite_digest[:16]

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
