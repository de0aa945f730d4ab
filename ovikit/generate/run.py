"""A generation run: prompts in, a folder of clips out, each with a sidecar that says how it was made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem
from ovikit.files import sha256_of
from ovikit.generate.batch import ClipMaker
from ovikit.generate.jobs import Job, Origin, finished, groups, plan, put_clip, sidecar_of, sweep
from ovikit.kernel.events import ClipFinished
from ovikit.kernel.manager import fire, installed_plugins
from ovikit.kernel.observe import observed
from ovikit.layout import LOCK, WEIGHTS
from ovikit.recipe.build import build_codecs, build_conditioner, build_model, build_sampling, clip_spec, load_weights
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import versions, write_lock
from ovikit.recipe.models import Recipe


class Watcher(Protocol):
    """Told how a run goes on, to show it."""

    def begin(self, clips: int, skipped: int, steps: int) -> None:
        """clips: still to make; skipped: already there; steps: of the solver, for each batch."""
        ...

    def step(self, clips: int) -> None:
        """One solver step of a batch of ``clips`` is done."""
        ...

    def clip(self, name: str, path: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class Generated:
    """What a run did. made: ids of the clips that it wrote; skipped: how many were there already."""

    folder: Path
    made: tuple[str, ...]
    skipped: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from. weights: None where the recipe's own checkpoint is read."""

    recipe: Recipe
    weights: Path | None
    folder: Path


def find_source(source: Path, overrides: Sequence[str] = (), weights: Path | None = None) -> Source:
    """The recipe and the weights of a recipe file, or of the folder of a training run.

    UserError where there are no weights, or no such run.
    """
    if not source.is_dir():
        recipe = load_recipe(source, overrides)
        if weights is None and recipe.model.checkpoint is None:
            raise UserError(
                f"recipe '{recipe.name}' has no trained weights to generate with",
                str(source),
                f"train it and give the run's folder: ovikit train {source}; or give --weights FILE",
            )
        return Source(recipe, weights, Path("runs") / recipe.name)
    lock, own = source / LOCK, source / WEIGHTS
    if not lock.is_file():
        raise UserError(f"this is not the folder of a run: it has no {LOCK}", str(source))
    if weights is None and not own.is_file():
        raise UserError(
            f"this run has no {WEIGHTS}: its training has not ended", str(source), "ovikit train continues it"
        )
    return Source(load_recipe(lock, overrides), weights or own, source)


def weights_digest(source: Source) -> str:
    """sha256 of the weights file."""
    if source.weights is None:
        slot = source.recipe.model.checkpoint
        assert slot is not None
        return sha256_of(installed_plugins().resolve_asset(slot.path))
    if not source.weights.is_file():
        raise UserError("no such weights file", str(source.weights))
    return sha256_of(source.weights)


def build_clip_maker(source: Source, device: torch.device | str = "cpu") -> tuple[ClipMaker, dict[str, str]]:
    """What makes the clips of a source, and its weights' metadata. UserError where weights and recipe do not fit."""
    recipe = source.recipe
    codecs, conditioner = build_codecs(recipe), build_conditioner(recipe)
    metadata: dict[str, str] = {}
    if source.weights is None:
        model = build_model(recipe, codecs, conditioner, device)
    else:
        model = build_model(recipe, codecs, conditioner, "meta")
        metadata = load_weights(model, source.weights)
        model = model.to(device)
    return ClipMaker(model, codecs, conditioner, build_sampling(recipe), clip_spec(recipe), device), metadata


def generate(
    source: Source,
    items: Sequence[PromptItem],
    folder: Path,
    *,
    count: int = 1,
    batch_size: int = 8,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    watcher: Watcher | None = None,
) -> Generated:
    """Makes ``count`` clips of each prompt in ``folder``; what lies there whole and was made in this way is kept.

    The same recipe, weights, prompts and batch size give the same bytes on one machine, interrupted or not.
    UserError when the folder holds clips of the same names made in another way, unless ``overwrite``.
    """
    recipe, started = source.recipe, time.perf_counter()
    jobs = plan(items, recipe.sampling.seed, count)
    origin = Origin(recipe.name, recipe.digest, weights_digest(source), _details(recipe))
    done = finished(folder, jobs, origin, overwrite)
    with observed("generate", folder, recipe.name, recipe.digest) as told:
        sweep(folder, jobs)
        write_lock(recipe, folder / LOCK)
        made = _make(source, origin, jobs, done, folder, batch_size, device, watcher)
        told.results = {"clips": float(len(made)), "skipped": float(len(done))}
    return Generated(folder, tuple(made), len(done), time.perf_counter() - started)


def _make(
    source: Source, origin: Origin, jobs: Sequence[Job], done: set[str], folder: Path, batch_size: int,
    device: torch.device | str, watcher: Watcher | None,
) -> list[str]:  # fmt: skip
    if watcher is not None:
        watcher.begin(len(jobs) - len(done), len(done), source.recipe.sampling.steps)
    batches = groups(jobs, batch_size, done)
    if not batches:
        return []
    maker, metadata = build_clip_maker(source, device)
    origin = Origin(origin.recipe, origin.digest, origin.weights, {**origin.details, "weights": metadata})
    made = []
    for batch in batches:
        began = time.perf_counter()
        missing = [job for job in batch if job.id not in done]

        def callback(step: int, steps: int, x: object, clips: int = len(missing)) -> None:
            if watcher is not None:
                watcher.step(clips)

        clips = maker.clips(batch, callback)
        each = (time.perf_counter() - began) / len(missing)
        for job, clip in zip(batch, clips, strict=True):
            if job.id in done:
                continue
            path = put_clip(folder, job.id, clip, sidecar_of(job, origin))
            made.append(job.id)
            fire(ClipFinished("generate", folder, job.id, path, job.prompt, job.seed, each))
            if watcher is not None:
                watcher.clip(job.id, path)
    return made


def _details(recipe: Recipe) -> dict[str, object]:
    """What a sidecar tells beyond the clip's identity."""
    return {
        "sampling": recipe.sampling.to_dict(),
        "clip": recipe.clip.to_dict(),
        "versions": versions(),
    }
