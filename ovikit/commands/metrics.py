"""What ``ovikit eval`` does beside scoring: which metrics there are, what they can see, and how two results differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovikit.commands.options import SuiteOverrides
from ovikit.commands.tables import print_table
from ovikit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ovikit.evaluation.compare_page import Labelled
    from ovikit.evaluation.protocols import Evaluator, MetricSpec, Need
    from ovikit.kernel.catalog import Registered


def list_metrics() -> None:
    """Prints every metric of every evaluator that is installed."""
    from rich.console import Console

    from ovikit.evaluation.words import ARROWS
    from ovikit.kernel.manager import installed_catalog

    console = Console(soft_wrap=True)
    rows: list[tuple[str, ...]] = []
    told: list[str] = []  # below the table, which has no room for it
    found = {one.name: _judge(one) for one in installed_catalog().of("evaluator").values()}
    for name, judge in found.items():
        if isinstance(judge, str):
            rows.append(("", name, "", "", "", "", "no"))
            told.append(f"{name} does not run here: {judge}")
            continue
        needs = _needs(judge)
        told += [f"{name} needs {one.name} ({one.licence}): {one.missing or 'it is here'}" for one in needs]
        runs = "no" if any(one.missing is not None for one in needs) else "yes"
        for spec in judge.metrics:
            rows.append((spec.name, name, ARROWS[spec.direction], spec.unit, _range(spec), spec.version, runs))
    print_table(console, ("metric", "evaluator", "better", "unit", "range", "version", "runs here"), rows)
    for line in told:
        console.print(line, highlight=False, markup=False)
    for judge in found.values():
        for spec in () if isinstance(judge, str) else judge.metrics:
            console.print(f"{spec.name}: {spec.summary}", highlight=False, markup=False)


def _judge(one: Registered) -> Evaluator | str:
    """An evaluator with its defaults, or why there is none here."""
    from ovikit.recipe.build import find_assets

    required = [name for name, field in one.component.config.model_fields.items() if field.is_required()]
    if required:
        return f"it needs {', '.join(required)} (ovikit plugins show evaluator/{one.name})"
    try:
        return one.component.build(one.component.config(), clip=None, assets=find_assets())
    except UserError as error:
        return error.what if error.hint is None else f"{error.what}; {error.hint}"


def _needs(judge: Evaluator) -> tuple[Need, ...]:
    from ovikit.evaluation.protocols import Needing

    return judge.needs if isinstance(judge, Needing) else ()


def _range(spec: MetricSpec) -> str:
    return " to ".join(f"{bound:g}".replace("inf", "∞") for bound in spec.range)


def self_test(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="Its metrics are tried.", show_default=False)],
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of clips to spoil; default: three that are made for it.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the spoilt clips and the results.")] = Path(
        "runs/self-test"
    ),
    override: SuiteOverrides = None,
) -> None:
    """Show what metrics can see: clips that get worse by known amounts, and how each metric responds.

    Example: ovikit eval self-test evals/suites/signals.yaml
    """
    from ovikit.recipe.load import load_suite

    found = load_suite(suite, override or ())
    # Only now: a typo is told at once, without torch.
    from rich.console import Console

    from ovikit.commands.progress import evaluation_progress
    from ovikit.evaluation.selftest import made_clips, read_clips, write_self_test
    from ovikit.evaluation.selftest import self_test as run_self_test

    console = Console(soft_wrap=True)
    taken = made_clips() if clips is None else read_clips(clips)
    with evaluation_progress(console) as shown:
        told = run_self_test(found, taken, out, told=shown)
    _show_responses(console, told)
    for what, path in zip(("numbers", "figure"), write_self_test(told, out), strict=True):
        console.print(f"{what}: {path}", highlight=False)


SIGNS = {"up": "↑", "down": "↓", "not": "·", "unsteady": "~"}
MARKS = {True: " worse", False: " better!", None: ""}


def _show_responses(console: Console, found: dict[str, Any]) -> None:
    def cell(response: dict[str, Any] | None) -> str:
        return "–" if response is None else SIGNS[response["moves"]] + MARKS[response["worse"]]

    corruptions, names = found["corruptions"], list(found["metrics"])
    rows = [(name, *(cell(one["responses"][name]) for one in corruptions.values())) for name in names]
    print_table(console, ("metric", *corruptions), rows)
    told = "↑ ↓: further with every grade;  ·: it does not move;  ~: unsteadily;  –: no score;  better!: the wrong way"
    console.print(told, highlight=False)


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="results.json, or their folders; the first is the baseline."),
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for comparison.html, .md and .json.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare what was measured in different ways.")] = False,
) -> None:
    """Show how results differ from the first: by metric, paired by item, with 95 % intervals.

    Example: ovikit eval compare runs/demo/results.json runs/other/results.json
    """
    if len(results) < 2:
        raise UserError("there is nothing to compare", "RESULTS", "give two or more results.json")
    from rich.console import Console

    from ovikit.evaluation.compare_page import Labelled, clips_of
    from ovikit.evaluation.results import read_results

    files = [path / "results.json" if path.is_dir() else path for path in results]
    read = [read_results(file) for file in files]
    labels = labels_of([one.subject for one in read])
    found = [Labelled(label, one, clips_of(one, file)) for label, one, file in zip(labels, read, files, strict=True)]
    show_comparison(Console(soft_wrap=True), found, [str(path) for path in results], out, force)


def labels_of(subjects: Sequence[str]) -> list[str]:
    """Names that tell results apart: those of what was measured, with a number where one comes again."""
    found: list[str] = []
    for k, subject in enumerate(subjects, start=1):
        found.append(subject if subject not in found else f"{subject} ({k})")
    return found


def show_comparison(
    console: Console, found: Sequence[Labelled], told: Sequence[str], out: Path | None, force: bool
) -> None:
    """Prints how results differ from the first; into a folder, as JSON, Markdown and a page. told: what the user calls
    each."""
    from ovikit.evaluation.compare import comparison, refuse_unlike, write_comparison
    from ovikit.evaluation.compare_page import rows_of, write_page
    from ovikit.evaluation.words import ARROWS, show_number, show_signed

    first, others = found[0], found[1:]
    for name, other in zip(told[1:], others, strict=True):
        if not force:
            refuse_unlike(first.results, other.results, told[0], name)
    columns = ("metric", "better", first.label[:24], "", "difference", "95 %", "items", "")
    for other in others:
        console.print(f"{other.label} against {first.label}", highlight=False)
        lines: list[tuple[str, ...]] = []
        for row in rows_of(first.results, other.results):
            numbers = [show_number(one.value, row.metric) for one in (row.metric, row.theirs)]
            gain = ["–", ""]
            if row.gain is not None:
                low, high = (show_signed(bound, row.metric) for bound in row.gain[1])
                gain = [show_signed(row.gain[0], row.metric), f"{low} to {high}"]
            lines.append((row.name, ARROWS[row.metric.direction], *numbers, *gain, str(row.items), row.verdict))
        print_table(console, (*columns[:3], other.label[:24], *columns[4:]), lines)
    if out is not None:
        data = comparison(first.results, {other.label: other.results for other in others}, forced=force)
        for path in (*write_comparison(data, out), write_page(first, others, out / "comparison.html", force)):
            console.print(f"written: {path}", highlight=False)
