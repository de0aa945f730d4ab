"""Where the rows of a run go beside metrics.csv: Lightning's loggers, by name. They write into the run's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ovikit.errors import UserError
from ovikit.evaluation.figures import filmstrip
from ovikit.evaluation.results import Results
from ovikit.extras import require
from ovikit.files import atomic_write_text
from ovikit.generate.media import read_clip
from ovikit.recipe.models import Recipe
from ovikit.training.metrics import CsvLog

Name = Literal["tensorboard", "wandb", "mlflow"]
SAMPLES = 4
"""Clips of a validation that loggers get."""
PICTURES = 6


def make_loggers(names: Sequence[Name], run: Path, recipe: Recipe) -> list[Logger]:
    """Lightning's loggers of these names, each told of the recipe. A run that goes on goes on in them.

    Weights & Biases works offline unless WANDB_MODE says otherwise, MLflow writes into the run's folder unless
    MLFLOW_TRACKING_URI does. UserError naming the extra that is not installed.
    """
    makers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    found = [makers[name](run, recipe) for name in dict.fromkeys(names)]
    for one in found:
        one.log_hyperparams({"recipe": recipe.name, "digest": recipe.digest})
    return found


def _tensorboard(run: Path, recipe: Recipe) -> Logger:
    require("tensorboard", "loggers")
    return TensorBoardLogger(run, name="tensorboard", version="", default_hp_metric=False)


def _wandb(run: Path, recipe: Recipe) -> Logger:
    require("wandb", "loggers")
    os.environ.setdefault("WANDB_MODE", "offline")
    identity = run / "wandb-id.txt"
    if not identity.exists():
        atomic_write_text(identity, uuid4().hex)
    return WandbLogger(
        name=run.name, save_dir=run, project="ovikit", id=identity.read_text(encoding="utf-8"), resume="allow"
    )


def _mlflow(run: Path, recipe: Recipe) -> Logger:
    require("mlflow", "loggers")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would need more than mlflow-skinny
    identity = run / "mlflow-id.txt"
    known = identity.read_text(encoding="utf-8") if identity.exists() else None
    where = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{(run / 'mlflow').resolve()}"
    logger = MLFlowLogger(experiment_name="ovikit", run_name=recipe.name, tracking_uri=where, run_id=known)
    if known is None:
        identity.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(identity, str(logger.run_id))
    return logger


def log_validation(loggers: Sequence[Logger], step: int, results: Results, clips: Path) -> None:
    """Sends the metrics of a validation and a few of its clips, picture and sound, to all loggers but metrics.csv."""
    others = [one for one in loggers if not isinstance(one, CsvLog)]
    if not others:
        return
    values: dict[str, float] = {}
    for name, metric in results.metrics.items():
        if metric.value is not None:
            values[f"validation/{name}"] = metric.value
            if metric.interval is not None:
                values[f"validation/{name}_low"], values[f"validation/{name}_high"] = metric.interval
    samples = [clips / f"{item.id}.mp4" for item in results.items[:SAMPLES]]
    for logger in others:
        logger.log_metrics(values, step)
        for path in samples:
            if path.is_file():
                _log_sample(logger, step, path)


def _log_sample(logger: Logger, step: int, path: Path) -> None:
    if isinstance(logger, TensorBoardLogger):
        try:
            clip = read_clip(path)
        except UserError:
            return  # the results say what is wrong with it
        if clip.video is not None:
            strip = filmstrip(clip.video.numpy(), PICTURES)
            logger.experiment.add_image(f"clips/{path.stem}", torch.from_numpy(strip), step, dataformats="HWC")
        if clip.audio is not None:
            logger.experiment.add_audio(f"clips/{path.stem}", clip.audio[None], step, clip.sample_rate_hz)
    elif isinstance(logger, WandbLogger):
        library: Any = require("wandb", "loggers")
        logger.experiment.log(
            {f"clips/{path.stem}": library.Video(str(path), format="mp4"), "trainer/global_step": step}
        )
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path), f"clips/step-{step:06d}")
