"""``ovikit demo``: train, generate, evaluate and report, in one go. What ``make demo`` runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovikit.commands.options import Overrides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from ovikit.evaluation.results import Results

CONTROLS = ("no-fusion.yaml", "native-positions.yaml")
BATCH = 16


def app_command(cli: typer.Typer) -> None:
    """Adds ``demo``."""
    cli.command("demo")(demo)


def demo(
    run: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run.")] = Path("runs/demo"),
    recipe: Annotated[Path, typer.Option(metavar="RECIPE", help="What to train.")] = Path("recipes/tiny/ovi.yaml"),
    suite: Annotated[Path, typer.Option(metavar="SUITE", help="What to measure.")] = Path("evals/suites/toyworld.yaml"),
    controls: Annotated[
        bool, typer.Option("--controls", help="Then also the recipe's controls, beside it, and a comparison.")
    ] = False,
    override: Overrides = None,
) -> None:
    """Train a tiny model, make clips from held-out prompts, measure the files, write a report. What is done is kept.

    Example: ovikit demo --run runs/quick -o training.trainer.max_steps=300
    """
    # An error in a recipe is told before anything slow is imported.
    from ovikit.recipe.load import load_recipe, load_suite

    for path in (recipe, *([recipe.with_name(name) for name in CONTROLS] if controls else [])):
        load_recipe(path, override or ())
    load_suite(suite)
    from rich.console import Console

    console, began = Console(soft_wrap=True), time.monotonic()
    results = run_recipe(recipe, suite, run, run / "truth", override or (), console)
    if controls:
        _compare(recipe, suite, run, override or (), results, console)
        return
    console.print(f"\nDone in {time.monotonic() - began:.0f} s.", highlight=False)
    _say_what_next(run, recipe, console)


def run_recipe(
    recipe: Path, suite: Path, run: Path, truth: Path, overrides: Sequence[str], console: Console
) -> Results:  # fmt: skip
    """The results of a recipe: trained in the folder ``run``, its clips made, measured and shown in a report."""
    from ovikit.commands.device import pick_device
    from ovikit.commands.evaluate import results_table
    from ovikit.commands.progress import evaluation_progress, generation_progress
    from ovikit.commands.tables import print_whole
    from ovikit.evaluation.report import Folders, write_report
    from ovikit.evaluation.results import write_results
    from ovikit.evaluation.runner import build_bench, evaluate
    from ovikit.generate.run import find_source, generate
    from ovikit.recipe.load import load_recipe, load_suite
    from ovikit.training.run import train

    found, measured_by = load_recipe(recipe, overrides), load_suite(suite)
    _heading(console, f"training {found.name} in {run}")
    trained = train(found, run, resume=True, console=console)
    if trained.stopped_by is not None:
        console.print(f"stopped at step {trained.step} of {trained.steps}; the same command goes on from there")
        raise typer.Exit(128 + trained.stopped_by)
    bench = build_bench(measured_by, found)
    _heading(console, f"generating {len(bench.prompts)} clips from held-out prompts")
    with generation_progress(console) as shown:
        # The folder is the demo's own: clips of an earlier state of the recipe give way.
        generate(
            find_source(run), bench.items, run / "clips", batch_size=BATCH, overwrite=True,
            device=pick_device("auto"), watcher=shown,
        )  # fmt: skip
    _heading(console, "evaluating the files")
    with evaluation_progress(console) as told:
        results = evaluate(measured_by, found, run / "clips", truth, told=told)
    write_results(results, run / "results.json")
    write_report(results, found, bench, Folders(run / "clips", truth, run), run / "report.html")
    console.print()
    print_whole(console, results_table(results))
    return results


def _heading(console: Console, text: str) -> None:
    console.print(f"[bold]== {text}[/bold]", highlight=False)


def _say_what_next(run: Path, recipe: Path, console: Console) -> None:
    prompt = "A red ball flashes twice on the left. Audio: two low tones."
    for label, what in (
        ("report", f"{run / 'report.html'}   (open it in a browser)"),
        ("clips", f"{run / 'clips'}"),
        ("numbers", f"{run / 'results.json'}"),
    ):
        console.print(f"  {label:8} {what}", highlight=False, markup=False)
    console.print("\nTry next:", highlight=False)
    for line in (
        f'ovikit generate {run} --prompt "{prompt}"',
        f"ovikit recipe diff {recipe} {recipe.with_name(CONTROLS[0])}",
        "make demo-controls     # the same without fusion, and with unscaled positions",
    ):
        console.print(f"  {line}", highlight=False, markup=False)


def _compare(
    recipe: Path, suite: Path, run: Path, overrides: Sequence[str], results: Results, console: Console
) -> None:  # fmt: skip
    from ovikit.evaluation.compare import comparison, write_comparison

    home, others = run.parent / "controls", {}
    for name in CONTROLS:
        path = recipe.with_name(name)
        # The controls share the codecs, and with them the ground truth.
        found = run_recipe(path, suite, home / path.stem, run / "truth", overrides, console)
        others[found.recipe.name] = found
    data = comparison(results, others)
    written = write_comparison(data, home)
    console.print()
    console.print(comparison_table(data))
    for path in written:
        console.print(f"  {path}", highlight=False, markup=False)


def comparison_table(data: dict[str, Any]) -> Table:
    """Each run's metrics: value, share of the way, and a mark where chance lies within the interval."""
    from rich import box
    from rich.table import Table

    title = f"{data['suite']['name']} ({data['profile']})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for name in data["runs"]:
        table.add_column(name.replace("-", " "), justify="right")
    for metric in next(iter(data["runs"].values()))["metrics"]:
        table.add_row(metric, *(_cell(run["metrics"][metric]) for run in data["runs"].values()))
    table.caption = "value, 95 % interval, share of the way from chance to ceiling; = chance: within the interval"
    return table


def _cell(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return "-"
    lines = [f"{entry['value']:.3f}"]
    if entry["interval"] is not None:
        lines.append(f"{entry['interval'][0]:.3f} to {entry['interval'][1]:.3f}")
    if entry["share"] is not None:
        lines.append(f"{100 * entry['share']:.0f} %")
    return "\n".join([*lines, *(["= chance"] if entry["chance_in_interval"] else [])])
