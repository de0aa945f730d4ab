"""``ovikit ablate``: a matrix of recipes, run and compared."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovikit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table as RichTable

    from ovikit.ablation.cells import Arm, Plan
    from ovikit.ablation.matrix import Matrix
    from ovikit.ablation.probe import Expectation
    from ovikit.ablation.store import Store
    from ovikit.ablation.tables import Table


def app_command(cli: typer.Typer) -> None:
    """Adds ``ablate``."""
    cli.command("ablate")(ablate)


_WIDE = 160
_SHOWN = 4
"""Columns of the report's table that a terminal has room for."""

MatrixFiles = Annotated[list[Path], typer.Argument(metavar="MATRIX...", help="Matrix files.", show_default=False)]
MatrixOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override", "-o", metavar="PATH=VALUE", help="Change a value of the matrix, as in budget.steps=200."
    ),
]


def ablate(
    matrices: MatrixFiles,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder that all matrices share.")] = Path("runs/ablations"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be run, and how long it takes.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Run nothing: report what is finished.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at once; the processor's cores are shared out.")] = 1,
    override: MatrixOverrides = None,
) -> None:
    """Train and measure every combination of a matrix with every seed, and report the differences.

    Finished cells are kept and never run twice; an interrupted run goes on with the same command.

    Example: ovikit ablate recipes/ablations/fusion.yaml --dry-run

    Example: ovikit ablate recipes/ablations/fusion.yaml recipes/ablations/positions.yaml --jobs 2
    """
    if dry_run and report:
        raise UserError("--dry-run and --report were both given", hint="the one runs nothing, the other reports it")
    from ovikit.ablation.cells import arms_of
    from ovikit.ablation.matrix import load_matrix

    # Every matrix is read before anything slow is imported: an error in the last one is told at once.
    found = [(load_matrix(path, override or ()), path) for path in matrices]
    arms = [arms_of(matrix) for matrix, _ in found]
    from rich.console import Console

    console = Console(soft_wrap=True)
    if not console.is_terminal:  # a file or a pipe has room for a table's columns
        console = Console(soft_wrap=True, width=_WIDE)
    for (matrix, path), own in zip(found, arms, strict=True):
        command = ["ovikit", "ablate", str(path), *(word for one in override or () for word in ("-o", one))]
        _one(matrix, own, out, shlex.join(command), jobs, dry_run, report, console)


def _one(
    matrix: Matrix, arms: Sequence[Arm], out: Path, command: str, jobs: int, dry_run: bool, report: bool,
    console: Console,
) -> None:  # fmt: skip
    from rich.markup import escape

    from ovikit.ablation.cells import plan_of
    from ovikit.ablation.probe import buildable, expectations, refuse_unknown_metrics
    from ovikit.ablation.run import threads_of
    from ovikit.ablation.store import Store

    store = Store(out)
    arms = buildable(arms)
    assert arms[0].recipe is not None  # the baseline's errors are raised
    refuse_unknown_metrics(matrix, arms[0].recipe)
    expected: dict[str, Expectation] = {}
    steps = {arm.label: matrix.budget.steps or 0 for arm in arms}
    if not report or matrix.budget.steps is None:
        kept = store.matrix(matrix.name) / "paces.json"
        with console.status("timing") as status:
            expected = expectations(
                matrix, list(arms), kept, threads_of(jobs), lambda arm: status.update(f"timing {escape(arm)}")
            )
        steps = {name: one.steps for name, one in expected.items()}
    plan = plan_of(matrix, arms, steps)
    if not report:
        _say_plan(plan, store, expected, jobs, console)
    if dry_run:
        return
    if not report:
        _run(plan, store, command, jobs, console)
    _report(plan, store, command, console)


def _run(plan: Plan, store: Store, command: str, jobs: int, console: Console) -> None:
    from ovikit.ablation.run import Runner

    tally = Runner(plan, store, jobs, console).run()
    if tally.stopped is not None:
        console.print(f"stopped: {len(tally.finished)} cells finished in this run", highlight=False)
        console.print(f"go on with: {command}", highlight=False, markup=False)
        raise typer.Exit(128 + tally.stopped)


def _say_plan(plan: Plan, store: Store, expected: Mapping[str, Expectation], jobs: int, console: Console) -> None:
    from ovikit.ablation.probe import total_seconds
    from ovikit.progress import clock

    matrix = plan.matrix
    console.print(f"== {matrix.name}  {matrix.question}", highlight=False, markup=False, style="bold")
    console.print(_plan_table(plan, store, expected))
    for arm in plan.arms:
        if arm.refused is not None:
            console.print(f"{arm.label}: not run: {arm.refused}", highlight=False, markup=False)
    unique = {cell.digest: cell for cell in plan.cells}
    left = [cell for cell in unique.values() if store.state(cell) != "finished"]
    seconds = total_seconds([(cell.arm.label, cell.training) for cell in left], expected, jobs)
    console.print(
        f"{len(unique)} cells of {plan.trainings} trainings; {len(left)} cells to run, about {clock(seconds)} with "
        f"--jobs {jobs}",
        highlight=False,
    )


def _plan_table(plan: Plan, store: Store, expected: Mapping[str, Expectation]) -> RichTable:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from ovikit.progress import clock

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("arm", "what it changes", "seeds", "done", "steps", "ms a step", "evaluations a clip", "a cell takes"):
        table.add_column(name, justify="left" if name in ("arm", "what it changes") else "right")
    for i, arm in enumerate(plan.arms):
        changes = "\n".join(arm.changes) or ("the baseline" if i == 0 else "nothing: it is the baseline again")
        one = expected.get(arm.label)
        if one is None:
            table.add_row(escape(arm.label), "refused: see below", "0", *[""] * 5)
            continue
        cells = plan.of(arm)
        done = sum(store.state(cell) == "finished" for cell in cells)
        table.add_row(
            escape(arm.label),
            escape(changes),
            str(len(cells)),
            str(done),
            f"{one.steps:,}",
            f"{1000 * one.training_seconds / one.steps:.0f}",
            str(one.evaluations),
            clock(one.seconds),
        )
    return table


def _report(plan: Plan, store: Store, command: str, console: Console) -> None:
    from ovikit.ablation.report import failures, write_report
    from ovikit.ablation.tables import table_of

    table = table_of(plan, store)
    path = write_report(table, store.matrix(plan.matrix.name), command)
    console.print(results_table(table))
    for one in failures(table):
        console.print(one, highlight=False, markup=False)
    console.print(f"report: {path}", highlight=False, markup=False)


def results_table(table: Table) -> RichTable:
    """The arms with their first metric, its difference from the baseline, and what that says; the rest is in the
    report."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    from ovikit.ablation.report import cells, head

    shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for i, name in enumerate(head(table)[:_SHOWN]):
        shown.add_column(name, justify="left" if i in (0, 3) else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in cells(table, row)[:_SHOWN]))
    return shown
