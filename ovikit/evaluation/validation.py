"""Clips of a run as it is at a checkpoint, made and scored as the recipe's ``training.validation`` says."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, PromptSet
from ovikit.evaluation.results import Results, write_results
from ovikit.evaluation.runner import EXCHANGES, Told, build_bench, evaluate_bench
from ovikit.files import atomic_write_text
from ovikit.generate.run import generate
from ovikit.generate.source import find_source
from ovikit.generate.watch import Watcher
from ovikit.layout import LOCK, VALIDATION, VALIDATIONS
from ovikit.recipe.build import build_codecs, training_of
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.training.checkpoints import find_checkpoint, weights_of_checkpoint
from ovikit.types import Clip

COLUMNS = ("step", "metric", "value", "low", "high", "unit", "direction", "scored", "prompts", "reason")


class FirstPrompts:
    """The first prompts of a set."""

    def __init__(self, prompts: PromptSet, most: int) -> None:
        self._prompts, self._count = prompts, min(most, len(prompts))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> PromptItem:
        if not 0 <= index < self._count:
            raise IndexError(f"prompt {index} of {self._count}")
        return self._prompts[index]

    def reference(self, index: int) -> Clip | None:
        return self._prompts.reference(index)


def validate(
    run: Path,
    checkpoint: str,
    suite: Path,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    watcher: Watcher | None = None,
    told: Told = lambda what, done, total: None,
) -> Results:
    """The results of a checkpoint, which are kept with its clips in ``validation/CHECKPOINT`` of the run's folder; a
    row for each metric goes to ``validation.csv``.

    weights: folder of the weights that the recipe names

    Averaged weights are validated where the run keeps averages. What lies there whole is not made again. UserError
    where the run has no such checkpoint, or no ``training.validation``.
    """
    chosen = training_of(load_recipe(run / LOCK)).validation
    if chosen is None:
        raise UserError("this run's recipe has no training.validation", str(run / LOCK))
    name = find_checkpoint(run, checkpoint).stem
    steps = () if chosen.steps is None else (f"sampling.steps={chosen.steps}",)
    found, home = load_suite(suite), run / VALIDATION / name
    with _Weights(run, checkpoint) as trained:
        source = find_source(run, steps, weights, trained)
        bench = build_bench(found, source.recipe)
        if chosen.prompts is not None:
            bench = replace(bench, prompts=FirstPrompts(bench.prompts, chosen.prompts))
        generate(source, bench.items, home / "clips", device=device, watcher=watcher)
        codecs = build_codecs(source.recipe, source.assets)
        measured = evaluate_bench(bench, codecs, home / "clips", run / VALIDATION / "truth", EXCHANGES, told)
        results = measured.results(found, source.recipe)
    write_results(results, home / "results.json")
    _add_rows(run / VALIDATIONS, int(name.removeprefix("step-")), results)
    return results


class _Weights:
    """The file of a checkpoint's weights, which is gone afterwards unless it was there before."""

    def __init__(self, run: Path, checkpoint: str) -> None:
        self._run, self._checkpoint = run, checkpoint
        self._kept = find_checkpoint(run, checkpoint).with_suffix(".safetensors").is_file()
        self._path: Path | None = None

    def __enter__(self) -> Path:
        self._path = weights_of_checkpoint(self._run, self._checkpoint)
        return self._path

    def __exit__(self, *error: object) -> None:
        if self._path is not None and not self._kept:
            self._path.unlink(missing_ok=True)


def _add_rows(path: Path, step: int, results: Results) -> None:
    """Puts the rows of a step in the place of those that it had, whole or not at all."""
    kept: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as handle:
            kept = [row for row in csv.DictReader(handle) if row["step"] != str(step)]
    text = StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    rows = [*kept, *_rows(step, results)]
    writer.writerows(sorted(rows, key=lambda row: int(row["step"])))
    atomic_write_text(path, text.getvalue())


def _rows(step: int, results: Results) -> Iterator[dict[str, str]]:
    for name, metric in results.metrics.items():
        low, high = metric.interval or ("", "")
        yield {
            "step": str(step), "metric": name, "value": "" if metric.value is None else str(metric.value),
            "low": str(low), "high": str(high), "unit": metric.unit, "direction": metric.direction,
            "scored": str(metric.scored), "prompts": str(results.prompts),
            "reason": "; ".join(f"{one.reason} ({one.count})" for one in metric.unscored),
        }  # fmt: skip
