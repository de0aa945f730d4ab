"""Two stages against one: towers that learn alone before they meet, and towers that meet at once, at one budget.

    python benchmarks/two_stages.py --seeds 3 --out docs/results/two-stages     # about 25 minutes of one core

Every arm has the FLOPs of 600 joint steps of ``recipes/ablations/base.yaml``: what its towers take alone is taken off
its steps together. FLOPs are those that ``ovikit plan`` counts, of forward and backward. Each arm is trained with each
seed, makes the clips of the toy world's suite, and is measured on the written files. ``results.csv`` has a row for each
run, written as soon as it is measured; a second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ovikit.commands.plan_training import training_figures
from ovikit.evaluation.runner import build_bench, evaluate
from ovikit.files import atomic_write_text
from ovikit.generate.run import generate
from ovikit.generate.source import Source
from ovikit.layout import WEIGHTS
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.recipe.models import Recipe
from ovikit.training.run import train

RECIPES = Path(__file__).parents[1] / "recipes"
JOINT, AUDIO, VIDEO = "two-stages/joint", "two-stages/stage1-audio", "two-stages/stage1-video"
METRICS = ("onset_f1", "onset_offset_ms", "colour_pitch", "count_seen", "count_heard")
FIELDS = ("arm", "seed", "alone_steps", "together_steps", "gflop", *METRICS)


@dataclass(frozen=True)
class Arm:
    """alone: steps of each tower by itself; recipe: of the stage that joins them."""

    name: str
    alone: int
    recipe: str


ARMS = (
    Arm("scratch", 0, "ablations/base"),
    Arm("joint-150", 150, JOINT),
    Arm("joint-300", 300, JOINT),
    Arm("fusion-150", 150, "two-stages/fusion"),
    Arm("fusion-300", 300, "two-stages/fusion"),
)


def recipe_of(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", overrides)


def step_flops(name: str) -> int:
    told = training_figures(recipe_of(name))
    assert told is not None
    return told["flops"]["kept"]


def together_steps(arm: Arm, budget: int) -> int:
    """Steps of an arm's second stage that are left of the budget."""
    left = budget - arm.alone * (step_flops(AUDIO) + step_flops(VIDEO) if arm.alone else 0)
    return round(left / step_flops(arm.recipe))


def seeded(name: str, seed: int, steps: int, *more: str) -> Recipe:
    seeds = (f"model.seed={seed}", f"training.seed={seed}")
    return recipe_of(name, *seeds, f"training.trainer.max_steps={steps}", *more)


def run_arm(arm: Arm, seed: int, budget: int, folder: Path, console: Console) -> dict[str, object]:
    """A row of the table."""
    together, more = together_steps(arm, budget), []
    if arm.alone:
        for modality, name in (("video", VIDEO), ("audio", AUDIO)):
            home = folder / f"{modality}-{arm.alone}-{seed}"
            train(seeded(name, seed, arm.alone), home, resume=True, console=console, cache=folder / "cache")
            more.append(f"{{part: {modality}, path: {home}}}")
    own = [f"training.initial=[{', '.join(more)}]"] if more else []
    recipe, home = seeded(arm.recipe, seed, together, *own), folder / f"{arm.name}-{seed}"
    train(recipe, home, resume=True, console=console, cache=folder / "cache")
    suite_path = recipe.suite_path()
    assert suite_path is not None
    suite = load_suite(suite_path)
    source = Source(recipe, home / WEIGHTS, home, build.find_assets())
    generate(source, build_bench(suite, recipe).items, home / "clips", batch_size=8, overwrite=True, device="cpu")
    found = evaluate(suite, recipe, home / "clips", folder / "truth").metrics
    alone = step_flops(AUDIO) + step_flops(VIDEO) if arm.alone else 0
    taken = together * step_flops(arm.recipe) + arm.alone * alone
    values = {name: found[name].value for name in METRICS}
    return {
        "arm": arm.name, "seed": seed, "alone_steps": arm.alone, "together_steps": together,
        "gflop": round(taken / 1e9),
        **{name: None if value is None else round(value, 4) for name, value in values.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="joint steps whose FLOPs are the budget")
    parser.add_argument("--arm", action="append", choices=[arm.name for arm in ARMS])
    parser.add_argument("--runs", type=Path, default=Path("runs/two-stages"))
    parser.add_argument("--out", type=Path, default=Path("runs/two-stages"))
    options = parser.parse_args()
    console, path = Console(soft_wrap=True), options.out / "results.csv"
    rows: list[dict[str, object]] = []
    if path.is_file():
        with path.open(newline="") as handle:
            rows = list(csv.DictReader(handle))
    done = {(str(row["arm"]), int(str(row["seed"]))) for row in rows}
    budget = options.steps * step_flops("ablations/base")
    for seed in range(options.seeds):
        for arm in ARMS:
            if (options.arm and arm.name not in options.arm) or (arm.name, seed) in done:
                continue
            console.rule(f"{arm.name}, seed {seed}")
            rows.append(run_arm(arm, seed, budget, options.runs, console))
            console.print(rows[-1])
            lines = [",".join(FIELDS), *(",".join(str(row[name]) for name in FIELDS) for row in rows)]
            options.out.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
