"""Metrics as people read them, the same in a terminal and in a report."""

from __future__ import annotations

from ovikit.evaluation.results import Derived, Interval, MetricResult

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


def _decimals(metric: MetricResult) -> int:
    top = metric.range[1]
    if top is None:  # nothing but the value itself says how large it is
        top = abs(metric.value or 0.0)
    return 3 if top <= 1 else 1
