"""A generation run: prompts in, a folder of clips out, each with a sidecar that says how it was made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovikit.evaluation.protocols import PromptItem
from ovikit.generate.batch import SizedCodecs
from ovikit.generate.jobs import Origin, Shape, finished, groups, plan, sweep
from ovikit.generate.making import Making, Tools
from ovikit.generate.orders import prepared_texts, refuse_unfit, shapes_of, size_rule
from ovikit.generate.size import Size, SizeRule
from ovikit.generate.source import Parts, Source, build_parts, find_source
from ovikit.generate.watch import Clock, Megabytes, Unwatched, Watcher
from ovikit.kernel.observe import observed
from ovikit.layout import LOCK
from ovikit.networks.joint import JointModel
from ovikit.recipe.build import build_model, clip_spec
from ovikit.recipe.lock import versions, write_lock
from ovikit.recipe.models import Recipe
from ovikit.runtime.processes import Processes
from ovikit.types import AV

__all__ = ["Generated", "Source", "find_source", "generate"]

MOST_CLIPS = 8
_LARGE_BYTES = 1e9
"""Smaller files are hashed in the blink of an eye."""
TOKENS_AT_ONCE = 8192
"""Batches of small clips are filled up to this: beyond it, a clip keeps any device busy by itself."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What a run did.

    made:       ids of the clips that it wrote
    skipped:    how many were there already
    phases:     seconds of each
    peak_bytes: the most memory that was taken, of the device, or of this process where that is the CPU; 0: nothing was
                made
    """

    folder: Path
    made: tuple[str, ...]
    skipped: int
    seconds: float
    phases: Mapping[str, float]
    peak_bytes: int
    device: str


def generate(
    source: Source,
    items: Sequence[PromptItem],
    folder: Path,
    *,
    count: int = 1,
    batch_size: int | None = None,
    overwrite: bool = False,
    size: Size | None = None,
    device: torch.device | str = "cpu",
    watcher: Watcher | None = None,
) -> Generated:
    """Makes ``count`` clips of each prompt in ``folder``; what lies there whole and was made in this way is kept.

    batch_size: clips at a time; default: up to eight small ones, one large one
    size:       height and width asked for; default: that of the first frame, or the recipe's

    The same recipe, weights, prompts, sizes and batch size give the same bytes on one machine, interrupted or not.
    UserError when the folder holds clips of the same names made in another way, unless ``overwrite``; and for whatever
    is wrong with prompts, images, sizes or weights, before anything is written.
    """
    recipe, started, clock = source.recipe, time.perf_counter(), Clock()
    with Processes.start(recipe.runtime.parallel, device) as processes:
        shown = watcher if watcher is not None and processes.main else Unwatched()
        order = _Order(source, build_parts(source), processes)
        jobs = plan(items, order.shapes(items, size, shown), order.texts(items, shown), recipe.sampling.seed, count)
        with clock("checking"):
            shown.phase("checking the weights", 0, "")
            source.assets.hashing = _hashing(shown)
            origin = processes.by_main(order.origin)
        told = Origin(**origin)
        mine = processes.share(jobs)
        done = set(processes.by_writer(lambda: sorted(finished(folder, mine, told, overwrite))))
        with observed("generate", folder, recipe.name, recipe.digest) as run:
            processes.by_writer(lambda: sweep(folder, mine))
            processes.by_main(lambda: write_lock(recipe, folder / LOCK, checkpoint_sha256=told.weights))
            batches = groups(mine, batch_size or order.batch_size(), done)
            shown.begin(len(mine) - len(done), len(done))
            making = Making(order.tools(clock, shown), told, folder, batches, done)
            made = [name for part in processes.collect(making.run() if batches else []) for name in part]
            run.results = {"clips": float(len(made)), "skipped": float(len(jobs) - len(made))}
        return Generated(
            folder, tuple(made), len(jobs) - len(made), time.perf_counter() - started, clock.rounded(),
            making.peak, str(processes.device),
        )  # fmt: skip


def _hashing(shown: Watcher) -> Callable[[Path, int, int], None]:
    """Shows how far the digest of each large file is."""
    files: dict[Path, Megabytes] = {}

    def told(path: Path, done: int, total: int) -> None:
        if total >= _LARGE_BYTES:
            files.setdefault(path, Megabytes(shown, f"checking {path.name}"))(done, total)

    return told


class _Order:
    """What a run needs of its source, built when it is needed; nothing of it reads weights."""

    def __init__(self, source: Source, parts: Parts, processes: Processes) -> None:
        self.source, self.parts, self.processes = source, parts, processes
        self.codecs = SizedCodecs(parts.codecs, clip_spec(source.recipe))
        self._model: JointModel | None = None

    @property
    def recipe(self) -> Recipe:
        return self.source.recipe

    def model(self) -> JointModel:
        """The network without its weights."""
        if self._model is None:
            parts = self.parts
            self._model = build_model(self.recipe, parts.codecs, parts.conditioner, "meta", self.processes.spread)
        return self._model

    def rule(self) -> SizeRule:
        return size_rule(self.codecs, self.model(), self.recipe.clip.area_px)

    def shapes(self, items: Sequence[PromptItem], asked: Size | None, shown: Watcher) -> list[Shape]:
        own = self.codecs.form.height_px, self.codecs.form.width_px
        shapes = shapes_of(items, own, self.rule, asked, shown.note)
        if any(shape.size_px != own for shape in shapes):
            refuse_unfit(shapes, self.codecs, self.model(), self.rule())
        return shapes

    def texts(self, items: Sequence[PromptItem], shown: Watcher) -> list[AV[str]]:
        return prepared_texts(items, self.parts.conditioner, shown.note, self.parts.codecs.modalities)

    def origin(self) -> dict[str, Any]:
        """What all clips of the run have in common, as the fields of an ``Origin``."""
        recipe, source = self.recipe, self.source
        return {
            "recipe": recipe.name,
            "digest": recipe.digest,
            "weights": source.digest(),
            "parts": self.parts.fingerprints(),
            "details": {
                "sampling": recipe.sampling.to_dict(),
                "clip": recipe.clip.to_dict(),
                "versions": versions(),
                "terms": self.parts.terms(),
                **({"adapters": source.told_adapters()} if source.adapters else {}),
            },
        }

    def batch_size(self) -> int:
        tokens = sum(
            len(self.model().tower(modality).grid(codec.grid())) for modality, codec in self.parts.codecs.items()
        )
        return max(1, min(MOST_CLIPS, TOKENS_AT_ONCE // tokens))

    def tools(self, clock: Clock, shown: Watcher) -> Tools:
        return Tools(self.source, self.parts, self.codecs, self.model, self.processes, clock, shown)
