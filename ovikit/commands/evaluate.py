"""``ovikit eval``: measure a folder of clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ovikit.commands.metrics import compare, list_metrics, self_test
from ovikit.commands.options import PromptSetFolder, SuiteOverrides, with_set
from ovikit.commands.tables import print_whole
from ovikit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ovikit.evaluation.results import Results
    from ovikit.recipe.models import Recipe, Suite


class _Eval(TyperGroup):
    """A group whose command is ``run`` where none is named: ``ovikit eval SUITE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or not args else ["run", *args])


def app_command(cli: typer.Typer) -> None:
    """Adds ``eval``, which scores, and ``eval self-test`` and ``eval compare``."""
    group = typer.Typer(
        cls=_Eval, no_args_is_help=True,
        help="Score clips, compare scores, try metrics. Example: ovikit eval SUITE --clips DIR (eval run --help)",
    )  # fmt: skip
    group.command("run")(evaluate)
    group.command("self-test")(self_test)
    group.command("compare")(compare)
    cli.add_typer(group, name="eval")


def evaluate(
    suite: Annotated[
        Path | None, typer.Argument(metavar="SUITE", help="An evaluation suite.", show_default=False)
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of ID.mp4 files.", show_default=False)
    ] = None,
    prompt_set: PromptSetFolder = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="One of the suite's profiles, such as official; default: its own.", show_default=False
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the metrics that there are, and nothing else.")] = False,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE",
            help="What made the clips; default: recipe.lock.yaml among them. A suite without prompts needs none.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of results.json; default: the one that holds the clips'.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that keeps ground-truth clips; default: truth beside.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Clips, or results.json, that these are compared with; may be given several times.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare what was measured in different ways.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, too.")] = False,
    override: SuiteOverrides = None,
) -> None:
    """Score a folder of clips, ovikit's or any other model's: each metric with its interval, its ceiling (ground
    truth) and its chance.

    Example: ovikit eval evals/suites/toyworld.yaml --clips runs/demo/clips --report
    """
    if listed:
        list_metrics()
        return
    if suite is None or clips is None:
        missing = "SUITE" if suite is None else "--clips"
        raise UserError("it is missing", missing, "ovikit eval SUITE --clips DIR; ovikit eval --help shows the rest")
    from ovikit.layout import LOCK
    from ovikit.recipe.load import load_recipe, load_suite

    found = load_suite(suite, with_set(override, prompt_set), profile=profile)
    if not clips.is_dir():
        raise UserError("there is no such folder of clips", "--clips " + str(clips))
    lock = recipe or clips / LOCK
    made_by = load_recipe(lock) if recipe is not None or lock.is_file() else None
    # Only now: a typo is told at once, without torch.
    from ovikit.evaluation.needs import device
    from ovikit.runtime.processes import connected

    with connected(device()):
        _measure(found, made_by, clips, out or clips.parent, truth or clips.parent / "truth", against, force, report)


def _measure(
    suite: Suite,
    recipe: Recipe | None,
    clips: Path,
    folder: Path,
    kept: Path,
    against: Sequence[Path] | None,
    force: bool,
    report: bool,
) -> None:
    """Measures, and writes what came out; of several processes all measure, and the first writes."""
    from rich.console import Console

    from ovikit.commands.progress import evaluation_progress
    from ovikit.evaluation.results import write_results
    from ovikit.evaluation.runner import evaluate as run_evaluation
    from ovikit.evaluation.words import markdown_rows
    from ovikit.files import atomic_write_text
    from ovikit.runtime.processes import is_main

    console = Console(soft_wrap=True, quiet=not is_main())
    with evaluation_progress(console) as shown:
        results = run_evaluation(suite, recipe, clips, kept, told=shown)
    others = [_measured_alike(one, suite, folder, console) for one in against or ()]
    if not is_main():
        return
    write_results(results, folder / "results.json")
    atomic_write_text(folder / "results.md", "\n".join(markdown_rows([results])) + "\n")
    print_whole(console, results_table(results))
    for line in overall_lines(results):
        console.print(line, highlight=False)
    console.print(f"results: {folder / 'results.json'}, as a row {folder / 'results.md'}", highlight=False)
    if others:
        _compare_with(others, against or (), results, clips, folder, force, console)
    if report:
        from ovikit.evaluation.report import Folders, write_report
        from ovikit.evaluation.runner import build_bench

        folders = Folders(clips, kept, clips.parent)
        path = write_report(results, recipe, build_bench(suite, recipe, clips), folders, folder / "report.html")
        console.print(f"report:  {path}", highlight=False)


def _measured_alike(other: Path, suite: Suite, out: Path, console: Console) -> tuple[Results, Path | None]:
    """Results that are there, or of a folder of clips; and where their clips are."""
    from ovikit.commands.progress import evaluation_progress
    from ovikit.evaluation.compare_page import clips_of
    from ovikit.evaluation.results import read_results, write_results
    from ovikit.evaluation.runner import evaluate as run_evaluation
    from ovikit.layout import LOCK
    from ovikit.recipe.load import load_recipe
    from ovikit.runtime.processes import is_main

    file = other / "results.json" if (other / "results.json").is_file() else other
    if file.is_file():
        read = read_results(file)
        return read, clips_of(read, file)
    lock = other / LOCK
    made_by = load_recipe(lock) if lock.is_file() else None
    with evaluation_progress(console) as shown:
        measured = run_evaluation(suite, made_by, other, other.parent / "truth", told=shown)
    if is_main():
        write_results(measured, out / f"against-{other.resolve().name}.json")
    return measured, other


def _compare_with(
    found: Sequence[tuple[Results, Path | None]],
    against: Sequence[Path],
    mine: Results,
    clips: Path,
    out: Path,
    force: bool,
    console: Console,
) -> None:
    """Shows how these clips differ from each of the others."""
    from ovikit.commands.metrics import labels_of, show_comparison
    from ovikit.evaluation.compare_page import Labelled

    labels = labels_of([*(one.subject for one, _ in found), mine.subject])
    own = Labelled(labels[-1], mine, clips)
    for label, (results, folder), name in zip(labels, found, against, strict=False):
        pair = [Labelled(label, results, folder), own]
        show_comparison(console, pair, [str(name), str(clips)], out / f"against-{label}", force)


def overall_lines(results: Results) -> list[str]:
    """The overall score and its parts; why there is none."""
    found = results.overall
    if found is None:
        return []
    scores = ", ".join(f"{name} {'–' if one is None else f'{one:.3f}'}" for name, one in found.scores.items())
    reasons = "; ".join(f"{name}: {reason}" for name, reason in found.reasons.items())
    return [f"{found.name}: {scores}", *([f"unscored: {reasons}"] if reasons else [])]


def results_table(results: Results) -> Table:
    """The metrics of a run, each between its chance and its ceiling."""
    from rich import box
    from rich.table import Table

    from ovikit.evaluation.words import ARROWS, show_interval, show_number, show_share

    title = f"{results.subject} on {results.suite.name} ({results.profile})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for heading in ("metric", "value", "95 %", "chance", "ceiling", "way", "scored"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    for name, metric in results.metrics.items():
        arrow = ARROWS[metric.direction]
        table.add_row(
            f"{name} {arrow}",
            show_number(metric.value, metric),
            show_interval(metric.interval, metric),
            show_number(None if metric.chance is None else metric.chance.value, metric),
            show_number(None if metric.ceiling is None else metric.ceiling.value, metric),
            show_share(metric.share),
            f"{metric.scored}/{metric.asked}",
        )
    # Which clips have no number, and why, is in results.json and in the report: here the reasons are enough.
    reasons = Counter({one.reason: 0 for metric in results.metrics.values() for one in metric.unscored})
    for metric in results.metrics.values():
        for one in metric.unscored:
            reasons[one.reason] = max(reasons[one.reason], one.count)
    table.caption = "way: from chance (0 %) to ceiling (100 %)"
    table.caption_justify = "left"
    if reasons:
        lines = [f"{reason} ({count})" for reason, count in reasons.most_common()]
        table.caption += "\nunscored: " + "\n          ".join(lines)
    return table
