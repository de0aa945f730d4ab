"""One cell, in a process of its own: train, make clips, measure them. ``python -m ovikit.ablation.cell REQUEST``.

A process for each: what a cell takes can be told, and what ends it ends nothing else.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ovikit.ablation.store import checkpoint_name
from ovikit.errors import UserError
from ovikit.evaluation.results import Results, read_results, write_results
from ovikit.evaluation.runner import build_bench, evaluate
from ovikit.files import alone_in, atomic_write_json
from ovikit.generate.run import generate
from ovikit.generate.source import Source
from ovikit.layout import CHECKPOINTS, LAST_CHECKPOINT, LOCK, METRICS, WEIGHTS, read_metrics
from ovikit.numerics.evaluations import count_evaluations
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.recipe.models import Recipe
from ovikit.training.checkpoints import weights_of_checkpoint
from ovikit.training.parameters import part_of

BATCH = 16
COST = "cost.json"
STOPPED = 75  # EX_TEMPFAIL: nothing is wrong, try again


@dataclass(frozen=True, slots=True)
class Request:
    """What a cell's process is asked for; paths as text, for JSON.

    cell:     the folder with the cell's recipe, where the measurements go
    training: the folder of the training run, which is made or gone on with unless it is finished
    points:   the steps to measure at, the last one that of the end
    """

    cell: str
    training: str
    latents: str
    truth: str
    suite: str
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell as it was measured after ``step`` steps. metrics: value, chance and ceiling of each."""

    step: int
    metrics: dict[str, dict[str, Any]]


def run_cell(request: Request, console: Console) -> dict[str, Any] | None:
    """What was measured and what it cost, as plain data; None where a signal stopped the training."""
    cell, training = Path(request.cell), Path(request.training)
    recipe = load_recipe(cell / LOCK)
    cost = _trained(recipe, training, Path(request.latents), console)
    if cost is None:
        return None
    measured, seconds = [], []
    for point in request.points:
        results, per_clip = _measured(recipe, request, point, console)
        measured.append(Measured(point, {name: _numbers(results, name) for name in results.metrics}))
        seconds.append(per_clip)
    return {
        "measured": [asdict(one) for one in measured],
        "metrics": _told(results),
        "cost": {**cost, **_sampling_cost(recipe, seconds[-1]), "peak_memory_gb": _peak_gb()},
    }


def _trained(recipe: Recipe, folder: Path, latents: Path, console: Console) -> dict[str, Any] | None:
    """What the training cost. Whoever finds it finished reads that from its folder."""
    told = folder / COST
    if told.is_file() and (folder / WEIGHTS).is_file():
        return json.loads(told.read_text(encoding="utf-8"))
    from ovikit.training.run import train  # Lightning takes seconds to import

    was_finished = (folder / WEIGHTS).is_file()
    lock = folder / LOCK
    # Cells that differ in sampling share a training: it goes by the recipe of the one that began it.
    began = load_recipe(lock) if lock.is_file() else recipe
    resumed, before_s = (folder / CHECKPOINTS / LAST_CHECKPOINT).is_file(), time.process_time()
    done = train(began, folder, resume=True, console=console, cache=latents)
    if done.weights is None:
        return None
    rows = read_metrics(folder / METRICS)
    seconds = float(rows[-1]["elapsed_s"])
    cost = {
        "training_steps": done.step,
        "training_seconds": round(seconds, 2),
        # Of the processor, all threads together, encoding included: less moved by what else the machine is doing.
        "training_cpu_seconds": None if resumed or was_finished else round(time.process_time() - before_s, 2),
        "training_memory_gb": None if was_finished else _peak_gb(),
        "parameters": parameters_of(began),
        "losses": [[int(row["step"]), float(row["loss"])] for row in rows],
    }
    atomic_write_json(told, cost)
    return cost


def parameters_of(recipe: Recipe) -> dict[str, int]:
    """Parameters of each part of the recipe's model, and of all."""
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    counts = {"video": 0, "audio": 0, "fusion": 0}
    for name, parameter in build.build_model(recipe, codecs, conditioner, "meta").named_parameters():
        counts[part_of(name)] += parameter.numel()
    return {**counts, "all": sum(counts.values())}


def _measured(recipe: Recipe, request: Request, point: int, console: Console) -> tuple[Results, float | None]:
    """The results at one point, and the seconds that a clip's denoising took there. What is measured is kept."""
    home, training = Path(request.cell) / f"step-{point:06d}", Path(request.training)
    told, timed = home / "results.json", home / "seconds.json"
    if told.is_file():
        return read_results(told), _seconds_per_clip(timed)
    last = point == request.points[-1]
    weights = training / WEIGHTS if last else weights_of_checkpoint(training, checkpoint_name(point))
    suite = load_suite(request.suite)
    bench = build_bench(suite, recipe)
    began = time.monotonic()
    made = generate(
        Source(recipe, weights, home, build.find_assets()), bench.items, home / "clips", batch_size=BATCH,
        overwrite=True, device="cpu",
    )  # fmt: skip
    if made.made:  # clips of an interrupted process lie there already, with the seconds that they took
        seconds = made.phases.get("denoising", 0.0) / len(made.made)
        atomic_write_json(timed, {"denoising_per_clip": seconds, "clips": len(made.made)})
    results = evaluate(suite, recipe, home / "clips", Path(request.truth))
    console.print(f"measured at step {point} in {time.monotonic() - began:.0f} s", highlight=False)
    write_results(results, told)
    return results, _seconds_per_clip(timed)


def _seconds_per_clip(path: Path) -> float | None:
    """What denoising a clip took, where that was written down."""
    return float(json.loads(path.read_text())["denoising_per_clip"]) if path.is_file() else None


def _numbers(results: Results, name: str) -> dict[str, Any]:
    metric = results.metrics[name]
    return {
        "value": metric.value,
        "scored": metric.scored,
        "chance": None if metric.chance is None else metric.chance.value,
        "ceiling": None if metric.ceiling is None else metric.ceiling.value,
    }


def _told(results: Results) -> dict[str, Any]:
    """What each metric is, and the share of items that had a number."""
    return {
        name: {"direction": one.direction, "unit": one.unit, "version": one.version, "summary": one.summary}
        for name, one in results.metrics.items()
    } | {"": {"prompts": results.prompts, "profile": results.profile}}


def _sampling_cost(recipe: Recipe, seconds: float | None) -> dict[str, Any]:
    parts = build.build_sampling(recipe)
    count = count_evaluations(parts.schedule, parts.solver, parts.guidance, parts.steps, recipe.model.modalities)
    return {"evaluations_per_clip": count, "seconds_per_clip": None if seconds is None else round(seconds, 4)}


def _peak_gb() -> float:
    """The most memory that this process had so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def main(arguments: Sequence[str]) -> int:
    """Runs the cell of a request file and writes ``outcome.json`` beside it; the exit status."""
    path = Path(arguments[0])
    asked = json.loads(path.read_text(encoding="utf-8"))
    request = Request(**{**asked, "points": tuple(asked["points"])})
    console = Console(soft_wrap=True)
    try:
        with alone_in(Path(request.cell)), alone_in(Path(request.training)):
            outcome = run_cell(request, console)
    except UserError as error:
        console.print(f"error: {error.render()}", highlight=False, markup=False)
        return 2
    if outcome is None:
        return STOPPED
    atomic_write_json(path.with_name("outcome.json"), outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
