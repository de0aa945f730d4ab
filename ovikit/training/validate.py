"""Validation on the way: a process of its own makes and scores clips of a checkpoint while training waits.

It shares nothing with training but the file, so that nothing of training can change, and its memory is free again
afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L  # as its documentation writes it
from rich.console import Console

from ovikit.errors import UserError
from ovikit.evaluation.results import Results, read_results
from ovikit.layout import VALIDATION
from ovikit.training.batches import Batch
from ovikit.training.callbacks import Checkpoints, StopOnSignal
from ovikit.training.loggers import log_validation

_LAUNCHED = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""What tells a process that it is one of several."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is validated with, and how often.

    weights: folder of the weights that the recipe names
    device:  where clips are made
    """

    every_steps: int
    suite: Path
    weights: Path | None
    device: str


class Validate(L.Callback):
    """Validates every so many steps and at the last one, and where a run goes on from a step that was not validated.
    The first process does; the others wait. UserError, after the checkpoint has been written, where it cannot."""

    def __init__(self, run: Path, plan: Plan, checkpoints: Checkpoints, stop: StopOnSignal, console: Console) -> None:
        self._run, self._plan, self._checkpoints, self._stop, self._console = run, plan, checkpoints, stop, console

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        due = step > 0 and step % self._plan.every_steps == 0
        if due and not (self._folder(step) / "results.json").exists():
            self._validate(trainer, f"step-{step:06d}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(batch, Batch)
        step = trainer.global_step
        due = step % self._plan.every_steps == 0 or step == trainer.max_steps
        if batch.last and due and not trainer.should_stop:
            self._validate(trainer, self._checkpoints.save(trainer).stem)

    def _folder(self, step: int) -> Path:
        return self._run / VALIDATION / f"step-{step:06d}"

    def _validate(self, trainer: L.Trainer, name: str) -> None:
        said = self._in_a_process(name) if trainer.global_rank == 0 else None
        said = trainer.strategy.broadcast(said)
        if said is not None and self._stop.received is None:
            raise UserError(
                f"the validation of {name} failed: {said}",
                str(self._run),
                "its checkpoint is whole; go on with --resume",
            )
        if trainer.global_rank == 0 and said is None:
            results = read_results(self._run / VALIDATION / name / "results.json")
            self._console.print(f"{name}: {_told(results)}", markup=False, highlight=False)
            log_validation(trainer.loggers, trainer.global_step, results, self._run / VALIDATION / name / "clips")

    def _in_a_process(self, name: str) -> str | None:
        """What went wrong; None: nothing."""
        plan = self._plan
        command = [sys.executable, "-m", "ovikit", "validate", str(self._run), "--suite", str(plan.suite)]
        command += ["--checkpoint", name, "--device", plan.device]
        command += [] if plan.weights is None else ["--weights", str(plan.weights)]
        self._console.print(f"validating {name}", markup=False, highlight=False)
        environment = {key: value for key, value in os.environ.items() if key not in _LAUNCHED}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"it ended with status {done.returncode}"


def _told(results: Results) -> str:
    """The metrics that have a value, each with its interval."""
    found: list[str] = []
    for name, metric in results.metrics.items():
        if metric.value is None:
            continue
        low, high = metric.interval or (None, None)
        found.append(f"{name} {metric.value:.3g}" + (f" ({low:.3g} to {high:.3g})" if metric.interval else ""))
    return ", ".join(found) or "nothing could be scored; validation.csv says why"
