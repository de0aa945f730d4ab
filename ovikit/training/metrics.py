"""The training log: rows of numbers, to every logger of the run and by default to metrics.csv."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import lightning as L  # as its documentation writes it
from lightning.pytorch.loggers import Logger

from ovikit.files import atomic_write_text, writing
from ovikit.layout import read_metrics
from ovikit.training.batches import Batch
from ovikit.training.module import JointTraining
from ovikit.training.watch import loss_name
from ovikit.types import Modality


def columns(modalities: tuple[Modality, ...]) -> tuple[str, ...]:
    """The columns of metrics.csv for a run that trains these modalities."""
    return ("step", "epoch", "loss", *map(loss_name, modalities), "lr", "grad_norm", "elapsed_s")


class CsvLog(Logger):
    """A Lightning logger that appends rows to one file, each complete on disk before training goes on.

    start: the step that training goes on from: rows after it, of steps that will be run again, are dropped
    """

    def __init__(self, path: Path, names: tuple[str, ...], start: int) -> None:
        super().__init__()
        self.path, self.names = path, names
        rows = [row for row in read_metrics(path) if int(row["step"]) <= start] if start and path.exists() else []
        text = StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write_text(path, text.getvalue())

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe lies beside the file."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with writing(self.path), self.path.open("a", newline="") as handle:
            writer = csv.DictWriter(handle, self.names, restval="", lineterminator="\n")
            writer.writerow({"step": step, **metrics})


class Metrics(L.Callback):
    """Sends a row to the loggers every ``every`` steps and at the last one: losses are means since the row before.
    One that no step since then had, because its modality was given in all of their clips, stays empty."""

    def __init__(self, every: int, clips: int, clips_per_step: int) -> None:
        self.every, self.clips, self.clips_per_step = every, clips, clips_per_step
        self.last_row: dict[str, float] = {}
        self._before_s, self._since = 0.0, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self._before_s + time.monotonic() - self._since

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(batch, Batch)
        if not batch.last:
            return
        step = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            return
        assert isinstance(pl_module, JointTraining)
        means = pl_module.watch.take_means(pl_module.add_up)
        if not means:
            return  # a gradient scaler skipped this step: its row is written already
        norm = pl_module.gradient_norm
        optimizer = pl_module.make_optimizer
        self.last_row = {
            "epoch": round(step * self.clips_per_step / self.clips, 4),
            **means,
            # Lightning has moved the schedule on already; the rate that this step was made with is one before.
            "lr": optimizer.learning_rate * optimizer.factor(step - 1),
            "grad_norm": float(norm) if norm is not None else 0.0,
            "elapsed_s": round(self.elapsed_s, 3),
        }
        for logger in trainer.loggers:
            logger.log_metrics(self.last_row, step)

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed_s": self.elapsed_s, "last_row": self.last_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before_s, self.last_row = state_dict["elapsed_s"], state_dict["last_row"]
