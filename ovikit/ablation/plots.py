"""The plots of a report: a metric against training steps for every arm, and quality against cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ovikit.ablation.tables import COSTS, Metric, Table
from ovikit.extras import require
from ovikit.files import atomic_path

# Okabe and Ito's colours, told apart by most eyes, then darker shades for whoever has more arms.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#7A3E9D", "#A0522D", "#2F4F4F",
    "#B8860B", "#DC143C",
)  # fmt: skip
STYLES = ("-", "--", ":", "-.")
INK = "#3b4048"
_SPREAD = 1.15
"""A cost that differs by less between the arms is no axis to draw along."""


def draw_plots(table: Table, folder: Path) -> list[tuple[str, Path]]:
    """(caption, file) of each plot, written as PNG. UserError where matplotlib, of the extra ``report``, is missing."""
    require("matplotlib", extra="report")
    drawn: list[tuple[str, Path]] = []
    metric = table.metrics[0]
    if any(len(row.curves[metric.name]) > 1 for row in table.rows):
        path = folder / f"{metric.name}-steps.png"
        _save(path, lambda axes: _draw_curves(axes, table, metric))
        drawn.append((f"{metric.name} while training; bands reach from the lowest to the highest seed", path))
    if any(len(row.losses) > 1 for row in table.rows):
        path = folder / "loss-steps.png"
        _save(path, lambda axes: _draw_losses(axes, table))
        drawn.append(("training loss, mean over the seeds", path))
    for cost in [name for name in COSTS if _differs(table, name)]:
        path = folder / f"{metric.name}-{cost.replace('_', '-')}.png"
        _save(path, lambda axes, cost=cost: _draw_cost(axes, table, metric, cost))
        what = (
            f"{metric.name} against {COSTS[cost]}; bars are 95 % intervals of the paired difference from the baseline"
        )
        drawn.append((what, path))
    return drawn


def _differs(table: Table, cost: str) -> bool:
    values = [row.costs[cost] for row in table.rows if row.costs.get(cost)]
    return len(values) > 1 and max(values) > _SPREAD * min(values)


def _save(path: Path, draw: Callable[[Any], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.4), dpi=140)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(alpha=0.25, linewidth=0.6)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color("#b8bcc4")
    figure.subplots_adjust(left=0.09, right=0.74, top=0.96, bottom=0.13)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white", bbox_inches="tight", pad_inches=0.12)


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)]}


def _legend(axes: Any) -> None:
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, labelcolor=INK, handlelength=1.8
    )  # fmt: skip


def _anchor_lines(axes: Any, table: Table, metric: Metric, inside: tuple[float, float] | None = None) -> None:
    """Where the truth through the same codecs and clips with exchanged sounds lie, if that is ``inside``."""
    chance, ceiling = table.baseline.anchors[metric.name]
    for value, name in ((ceiling, "ceiling"), (chance, "chance")):
        if value is not None and (not inside or inside[0] <= value <= inside[1]):
            axes.axhline(value, color="#9aa0a8", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            axes.annotate(
                name, (0.995, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8,
                color="#7b818a", xytext=(0, 1), textcoords="offset points",
            )  # fmt: skip


def _draw_curves(axes: Any, table: Table, metric: Metric) -> None:
    for i, row in enumerate(table.rows):
        points = [point for point in row.curves[metric.name] if point.values]
        if not points:
            continue
        steps = [point.step for point in points]
        means = [point.estimate.mean for point in points if point.estimate is not None]
        axes.plot(steps, means, label=row.arm.label, marker="o", markersize=3.5, linewidth=1.7, **_look(i))
        lows, highs = ([pick(point.values.values()) for point in points] for pick in (min, max))
        axes.fill_between(steps, lows, highs, color=_look(i)["color"], alpha=0.10, linewidth=0)
    _anchor_lines(axes, table, metric)
    axes.set_xlabel("training steps", color=INK, fontsize=10)
    axes.set_ylabel(_axis(metric), color=INK, fontsize=10)
    axes.set_xlim(left=0)
    _legend(axes)


def _draw_losses(axes: Any, table: Table) -> None:
    for i, row in enumerate(table.rows):
        if row.losses:
            axes.plot(*zip(*row.losses, strict=True), label=row.arm.label, linewidth=1.3, **_look(i))
    late = [loss for row in table.rows for _, loss in row.losses[len(row.losses) // 8 :]]
    axes.set_ylim(min(late) * 0.95, max(late) * 1.05)
    axes.set_xlabel("training steps", color=INK, fontsize=10)
    axes.set_ylabel("loss", color=INK, fontsize=10)
    _legend(axes)


def _draw_cost(axes: Any, table: Table, metric: Metric, cost: str) -> None:
    shown = [(i, row) for i, row in enumerate(table.rows) if row.last(metric.name) is not None and cost in row.costs]
    spent = [row.costs[cost] for _, row in shown]
    wide = bool(spent) and min(spent) > 0 and _ratio(spent) > 8
    apart = 0.012 * ((max(spent) - min(spent)) or 1.0) if spent else 0.0
    beside: dict[float, int] = {}
    for i, row in shown:
        last = row.last(metric.name)
        found = None if last is None else last.estimate
        if found is None:
            continue
        # Arms of one cost stand beside each other, the first of them in its place.
        rank = beside[row.costs[cost]] = beside.get(row.costs[cost], -1) + 1
        x = row.costs[cost] if wide else row.costs[cost] + apart * ((rank + 1) // 2) * (1 if rank % 2 else -1)
        change = row.difference(metric.name)
        axes.errorbar(
            x, found.mean, yerr=None if change is None else change.half, label=row.arm.label, color=_look(i)["color"],
            marker=_MARKERS[i % len(_MARKERS)], markersize=6, capsize=3, linewidth=1.2, linestyle="none",
        )  # fmt: skip
    low, high = axes.get_ylim()
    _anchor_lines(axes, table, metric, (low, high))  # one far away would press the arms together
    axes.set_ylim(low, high)
    if wide:
        axes.set_xscale("log")
    axes.set_xlabel(COSTS[cost], color=INK, fontsize=10)
    axes.set_ylabel(_axis(metric), color=INK, fontsize=10)
    _legend(axes)


def _ratio(values: Sequence[float]) -> float:
    return max(values) / min(values)


_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def _axis(metric: Metric) -> str:
    """What an axis of a metric is called."""
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.name}{unit} {metric.arrow}"
