"""A matrix's report: ``report.html``, ``report.md``, ``results.csv``, ``summary.csv`` and the plots."""

from __future__ import annotations

import os
from pathlib import Path

from ovikit.ablation.plots import draw_plots
from ovikit.ablation.statistics import Estimate
from ovikit.ablation.tables import COSTS, Metric, Row, Table, long_csv, summary_csv
from ovikit.extras import require
from ovikit.files import atomic_write_text
from ovikit.recipe.lock import versions

TEMPLATE = "report.html.j2"
NOTHING = "–"


def write_report(table: Table, folder: Path, command: str) -> Path:
    """Writes everything; the path of the HTML file. command: what makes this report, as it was typed."""
    jinja2 = require("jinja2", extra="report")
    plots = draw_plots(table, folder)
    atomic_write_text(folder / "results.csv", long_csv(table))
    atomic_write_text(folder / "summary.csv", summary_csv(table))
    relative = [(caption, Path(os.path.relpath(path, folder)).as_posix()) for caption, path in plots]
    atomic_write_text(folder / "report.md", markdown(table, relative, command))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ovikit.ablation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template(TEMPLATE).render(
        table=table, head=head(table), rows=[(row, cells(table, row)) for row in table.rows], plots=relative,
        command=command, notes=notes(table), versions=versions(), failures=failures(table),
        earlier_head=earlier_head(table), earlier=[earlier_cells(table, row) for row in table.rows],
    )  # fmt: skip
    atomic_write_text(folder / "report.html", html)
    return folder / "report.html"


def head(table: Table) -> list[str]:
    """The headings of the columns."""
    first, *others = table.metrics
    named = [f"{metric.name} {metric.arrow}" for metric in others]
    return [
        "arm", f"{first.name} {first.arrow}", "difference, paired", "", *named, "evaluations", "s/clip", "train s",
        "parameters", "of fusion", "GB",
    ]  # fmt: skip


def cells(table: Table, row: Row) -> list[str]:
    """The cells of an arm, as text."""
    first, *others = table.metrics
    count = row.parameters
    return [
        row.arm.label,
        _value(row, first),
        _difference(row, first),
        "baseline" if row is table.baseline else table.verdict(row, first),
        *(_value(row, metric) for metric in others),
        _number(row.costs.get("evaluations_per_clip"), "{:.0f}"),
        _number(row.costs.get("seconds_per_clip"), "{:.2f}"),
        _number(row.costs.get("training_seconds"), "{:.0f}"),
        _number(count.get("all"), "{:,}"),
        _number(count.get("fusion"), "{:,}"),
        _number(row.costs.get("training_memory_gb"), "{:.2f}"),
    ]


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _decimals(metric: Metric, value: float) -> str:
    return f"{value:.1f}" if metric.unit else f"{value:.3f}"


def earlier_head(table: Table) -> list[str]:
    """The headings of the table of earlier points; empty where cells were measured at their end only."""
    name = table.metrics[0].name
    steps = [(f"{name} at {step:,}", "difference, paired", "") for step in table.earlier]
    return ["arm", *(one for three in steps for one in three)] if steps else []


def earlier_cells(table: Table, row: Row) -> list[str]:
    """The first metric of an arm at the points before its end, each with its difference from the baseline."""
    first, found = table.metrics[0], [row.arm.label]
    for point in range(len(table.earlier)):
        verdict = "baseline" if row is table.baseline else table.verdict(row, first, point)
        found += [_value(row, first, point), _difference(row, first, point), verdict]
    return found


def _value(row: Row, metric: Metric, point: int = -1) -> str:
    """A metric with half the width of its interval."""
    points = row.curves[metric.name]
    found = points[point].estimate if points else None
    if found is None:
        return NOTHING
    half = "" if found.half is None else f" ± {_decimals(metric, found.half)}"
    return f"{_decimals(metric, found.mean)}{half}"


def _difference(row: Row, metric: Metric, point: int = -1) -> str:
    found = row.difference(metric.name, point)
    if found is None:
        return ""
    mean = _signed(metric, found.mean)
    return mean if found.low is None or found.high is None else f"{mean} [{_bounds(metric, found)}]"


def _bounds(metric: Metric, found: Estimate) -> str:
    return ", ".join(_signed(metric, one) for one in (found.low, found.high) if one is not None)


def _signed(metric: Metric, value: float) -> str:
    return ("+" if value >= 0 else "−") + _decimals(metric, abs(value))


def failures(table: Table) -> list[str]:
    """What is not in the table, and why: refused arms, failed cells, cells that were not run."""
    found = [f"{row.arm.label}: not run: {row.arm.refused}" for row in table.rows if row.arm.refused]
    found += [f"{row.arm.label} seed {seed}: failed: {why}" for row in table.rows for seed, why in row.failures]
    found += [f"{row.arm.label}: seed {s} is not finished" for row in table.rows for s in row.missing]
    for row in table.rows:
        for metric in table.metrics:
            values = row.curves[metric.name][-1].values if row.curves[metric.name] else {}
            without = [str(seed) for seed in row.seeds if seed not in values]
            if without:
                found.append(f"{row.arm.label}: {metric.name} could not be scored with seed {', '.join(without)}")
    return found


def notes(table: Table) -> list[str]:
    """How to read the table."""
    matrix, first = table.plan.matrix, table.metrics[0]
    chance, ceiling = table.baseline.anchors[first.name]
    seeds = len(matrix.seeds)
    budget = f"{table.baseline.steps:,} steps"
    if matrix.budget.seconds is not None:
        budget = f"the steps that fit into {matrix.budget.seconds:g} seconds of training, by arm"
    said = [
        f"Budget: {budget}, {seeds} seeds an arm, {table.prompts} prompts, profile {table.profile}.",
        f"± is half the 95 % interval of the mean over {seeds} seeds (Student's t).",
        f"The difference is from '{table.baseline.arm.label}', paired by seed, with its 95 % interval; "
        "intervals are not widened for the number of arms compared.",
    ]
    if chance is not None and ceiling is not None:
        said.append(
            f"{first.name}: chance {_decimals(first, chance)} (sounds exchanged between the baseline's clips), "
            f"ceiling {_decimals(first, ceiling)} (ground truth through the same codecs and files)."
        )
    if matrix.equivalence is not None:
        said.append(
            f"'equal in practice': the whole interval lies within {matrix.equivalence:g} of zero; 'not told apart': "
            "neither that nor on one side of zero."
        )
    said += [
        f"{metric.name}{f' ({metric.unit})' if metric.unit else ''}: {metric.summary}." for metric in table.metrics
    ]
    told = "; ".join(f"{name}: {what}" for name, what in COSTS.items() if name != "training_memory_gb")
    return [*said, f"Costs are means over the seeds on this machine ({told}; GB: peak resident memory in training)."]


def markdown(table: Table, plots: list[tuple[str, str]], command: str) -> str:
    """The report as Markdown."""
    matrix = table.plan.matrix
    lines = [f"# {matrix.name}", ""]
    lines += [matrix.question, ""] if matrix.question else []
    lines += [f"`{command}`", "", *markdown_table(table), ""]
    if names := earlier_head(table):
        lines += ["On the way:", "", *_table(names, [earlier_cells(table, row) for row in table.rows]), ""]
    lines += [f"- {one}" for one in notes(table)]
    if told := failures(table):
        lines += ["", "Not in the table:", "", *(f"- {one}" for one in told)]
    for caption, path in plots:
        lines += ["", f"![{caption}]({path})", "", f"*{caption}*"]
    changes = [row for row in table.rows if row.arm.changes]
    if changes:
        lines += ["", "What each arm changes:", ""]
        lines += [f"- **{row.arm.label}**: {'; '.join(row.arm.changes)}" for row in changes]
    return "\n".join(lines) + "\n"


def markdown_table(table: Table) -> list[str]:
    """The lines of the table; the columns of numbers are aligned to the right."""
    return _table(head(table), [cells(table, row) for row in table.rows])


def _table(names: list[str], rows: list[list[str]]) -> list[str]:
    rule = "|---|" + "|".join("---" if not name else "---:" for name in names[1:]) + "|"
    return ["| " + " | ".join(names) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]
