"""Metrics as people read them, the same in a terminal and in a report."""

from __future__ import annotations

from collections.abc import Sequence

from ovikit.evaluation.results import Derived, Interval, MetricResult, Results

NOTHING = "–"
ARROWS = {"higher": "↑", "lower": "↓", "neither": "·"}
"""Which way is better."""


def show_number(value: float | None, metric: MetricResult) -> str:
    """A value with the decimals that make sense for its metric: more for numbers up to 1."""
    return NOTHING if value is None else f"{value:.{_decimals(metric)}f}"


def show_interval(interval: Interval | None, metric: MetricResult) -> str:
    """``low–high``, or ``low to high`` where one is negative; nothing where there is no interval."""
    if interval is None:
        return ""
    return (" to " if min(interval) < 0 else "–").join(f"{bound:.{_decimals(metric)}f}" for bound in interval)


def show_signed(value: float, metric: MetricResult) -> str:
    """A difference, always with its sign."""
    return f"{value:+.{_decimals(metric)}f}"


def show_share(share: Derived | None) -> str:
    """The share of the way from chance to ceiling in percent."""
    return NOTHING if share is None else f"{100 * share.value:.0f} %"


def markdown_rows(several: Sequence[Results]) -> list[str]:
    """Results of one suite as a Markdown table, a row each: value, 95 % interval, and the items that have a number
    where others lack one."""
    names = list(several[0].metrics)
    heads = [f"{name} {ARROWS[several[0].metrics[name].direction]}" for name in names]
    total = any(one.overall is not None for one in several)
    lines = [
        "| clips | " + " | ".join([*heads, *(["overall ↑"] if total else [])]) + " |",
        "|---|" + "---|" * (len(names) + total),
    ]
    for one in several:
        cells = [_cell(one.metrics[name]) if name in one.metrics else NOTHING for name in names]
        if total:
            score = None if one.overall is None else next(iter(one.overall.scores.values()))
            cells.append(NOTHING if score is None else f"{score:.3f}")
        lines.append(f"| {one.subject} | " + " | ".join(cells) + " |")
    return [f"{several[0].suite.name}, profile {several[0].profile}:", "", *lines]


def _cell(metric: MetricResult) -> str:
    interval = show_interval(metric.interval, metric)
    coverage = f" ({metric.scored} of {metric.asked})" if metric.scored < metric.asked else ""
    return show_number(metric.value, metric) + (f" [{interval}]" if interval else "") + coverage


def _decimals(metric: MetricResult) -> int:
    top = metric.range[1]
    if top is None:  # nothing but the value itself says how large it is
        top = abs(metric.value or 0.0)
    return 3 if top <= 1 else 1
