"""Finished cells to tables: each arm's metrics over its seeds, its paired differences from the baseline, its cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovikit.ablation.cells import Arm, Cell, Plan
from ovikit.ablation.statistics import Estimate, estimate
from ovikit.ablation.store import Store
from ovikit.errors import UserError

COSTS = {
    "evaluations_per_clip": "network evaluations of a clip",
    "seconds_per_clip": "seconds of denoising a clip",
    "training_seconds": "seconds of training",
    "training_cpu_seconds": "seconds of the processor in training, encoding included",
    "training_memory_gb": "peak memory in training, GB",
}
"""What is told of each arm beside its quality: means over its seeds."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as the suite describes it. better: "higher" or "lower"."""

    name: str
    better: str
    unit: str
    version: str
    summary: str

    @property
    def arrow(self) -> str:
        return "↑" if self.better == "higher" else "↓"


@dataclass(frozen=True, slots=True)
class Point:
    """A metric of an arm after some steps. values: by seed, of those where it could be measured."""

    step: int
    values: Mapping[int, float]

    @property
    def estimate(self) -> Estimate | None:
        return estimate(list(self.values.values())) if self.values else None


@dataclass(frozen=True, slots=True)
class Row:
    """One arm.

    curves:      by metric, its points in the order of the steps
    differences: by metric, at each point, this arm minus the baseline, paired by seed; None where no seed has both;
                 empty for the baseline
    anchors:     by metric, (chance, ceiling), means over the seeds; None where the suite has none
    costs:       means over the seeds, by the names of COSTS
    parameters:  of each part of the model, and of all
    losses:      (step, loss) of the training, means over the seeds
    failures:    (seed, reason) of the cells that failed
    missing:     seeds whose cells are not finished
    """

    arm: Arm
    steps: int
    seeds: tuple[int, ...]
    curves: Mapping[str, tuple[Point, ...]]
    differences: Mapping[str, tuple[Estimate | None, ...]]
    anchors: Mapping[str, tuple[float | None, float | None]]
    costs: Mapping[str, float]
    parameters: Mapping[str, int]
    losses: tuple[tuple[int, float], ...]
    failures: tuple[tuple[int, str], ...]
    missing: tuple[int, ...]

    def last(self, metric: str) -> Point | None:
        """A metric at the end of the budget; None where no cell is finished."""
        points = self.curves.get(metric, ())
        return points[-1] if points and points[-1].values else None

    def difference(self, metric: str, point: int = -1) -> Estimate | None:
        """The paired difference from the baseline at a point, by default the end of the budget."""
        found = self.differences.get(metric, ())
        return found[point] if found else None


@dataclass(frozen=True, slots=True)
class Table:
    """A matrix's results. rows: the arms, the baseline first."""

    plan: Plan
    metrics: tuple[Metric, ...]
    prompts: int
    profile: str
    rows: tuple[Row, ...]

    @property
    def baseline(self) -> Row:
        return self.rows[0]

    @property
    def earlier(self) -> tuple[int, ...]:
        """The steps at which cells were measured before their end, where all arms have the same."""
        steps = {tuple(point.step for point in row.curves[self.metrics[0].name]) for row in self.rows} - {()}
        return steps.pop()[:-1] if len(steps) == 1 else ()

    def verdict(self, row: Row, metric: Metric, point: int = -1) -> str:
        """What the interval of a row's difference says, in words; by default at the end of the budget."""
        found = row.difference(metric.name, point)
        if found is None:
            return ""
        bound = self.plan.matrix.equivalence
        if found.excludes_zero:
            return "better" if (found.mean > 0) == (metric.better == "higher") else "worse"
        if bound is not None and metric == self.metrics[0] and found.within(bound):
            return "equal in practice"
        return "not told apart"


def table_of(plan: Plan, store: Store) -> Table:
    """The table of what is finished so far. UserError where nothing is, or a wanted metric is not among the suite's."""
    records = {cell.digest: store.record(cell) for cell in plan.cells}
    finished = {digest: one for digest, one in records.items() if one is not None and one["state"] == "finished"}
    if not finished:
        reasons = {one["reason"] for one in records.values() if one is not None and one["state"] == "failed"}
        raise UserError(
            "no cell is finished: there is nothing to report", str(plan.matrix.source), "\n  ".join(reasons)
        )
    told = next(iter(finished.values()))["metrics"]
    metrics = _metrics(plan, told)
    rows: list[Row] = []
    for arm in plan.arms:
        rows.append(_row(plan.of(arm), arm, records, metrics, rows[0] if rows else None))
    return Table(plan, metrics, told[""]["prompts"], told[""]["profile"], tuple(rows))


def _metrics(plan: Plan, told: Mapping[str, Any]) -> tuple[Metric, ...]:
    known = [name for name in told if name]
    for name in plan.matrix.metrics:
        if name not in known:
            raise UserError(
                f"the suite gives no metric '{name}'", f"{plan.matrix.source}: metrics", f"it gives {', '.join(known)}"
            )
    return tuple(
        Metric(name, told[name]["direction"], told[name]["unit"], told[name]["version"], told[name]["summary"])
        for name in plan.matrix.metrics or known
    )


def _row(
    cells: Sequence[Cell], arm: Arm, records: Mapping[str, Any], metrics: Sequence[Metric], baseline: Row | None
) -> Row:
    by_seed = {cell.seed: records[cell.digest] for cell in cells}
    done = {seed: one for seed, one in by_seed.items() if one is not None and one["state"] == "finished"}
    curves = {metric.name: _curve(done, metric.name) for metric in metrics}
    failed = tuple((s, one["reason"]) for s, one in by_seed.items() if one is not None and one["state"] == "failed")
    return Row(
        arm=arm,
        steps=cells[0].steps if cells else 0,
        seeds=tuple(done),
        curves=curves,
        differences={} if baseline is None else _differences(curves, baseline),
        anchors={metric.name: _anchors(done, metric.name) for metric in metrics},
        costs=_costs(done),
        parameters=next((one["cost"]["parameters"] for one in done.values()), {}),
        losses=_losses(done),
        failures=failed,
        missing=tuple(seed for seed in by_seed if seed not in done and seed not in dict(failed)),
    )


def _curve(done: Mapping[int, Any], name: str) -> tuple[Point, ...]:
    steps = [one["step"] for one in next(iter(done.values()), {"measured": []})["measured"]]
    return tuple(
        Point(
            step,
            {
                seed: value
                for seed, one in done.items()
                if (value := one["measured"][i]["metrics"][name]["value"]) is not None
            },
        )
        for i, step in enumerate(steps)
    )


def _differences(
    curves: Mapping[str, tuple[Point, ...]], baseline: Row
) -> dict[str, tuple[Estimate | None, ...]]:  # fmt: skip
    """Of each metric at each point, paired by seed: what a seed does to both arms cancels."""

    def paired(mine: Mapping[int, float], there: Mapping[int, float]) -> Estimate | None:
        pairs = [mine[seed] - there[seed] for seed in mine if seed in there]
        return estimate(pairs) if pairs else None

    return {
        name: tuple(paired(one.values, other.values) for one, other in zip(points, baseline.curves[name], strict=False))
        for name, points in curves.items()
    }


def _anchors(done: Mapping[int, Any], name: str) -> tuple[float | None, float | None]:
    ends = [one["measured"][-1]["metrics"][name] for one in done.values()]
    return _mean([one["chance"] for one in ends]), _mean([one["ceiling"] for one in ends])


def _costs(done: Mapping[int, Any]) -> dict[str, float]:
    means = {name: _mean([one["cost"].get(name) for one in done.values()]) for name in COSTS}
    return {name: value for name, value in means.items() if value is not None}


def _losses(done: Mapping[int, Any]) -> tuple[tuple[int, float], ...]:
    runs = [dict(map(tuple, one["cost"]["losses"])) for one in done.values()]
    shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    return tuple((step, sum(run[step] for run in runs) / len(runs)) for step in shared)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def long_csv(table: Table) -> str:
    """One line for each arm, seed, step and metric: everything that was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = list(table.plan.matrix.axes)
    writer.writerow([*axes, "seed", "step", "metric", "value"])
    for row in table.rows:
        for metric in table.metrics:
            for point in row.curves[metric.name]:
                for seed, value in point.values.items():
                    writer.writerow([*row.arm.chosen.values(), seed, point.step, metric.name, f"{value:.6g}"])
    return text.getvalue()


def summary_csv(table: Table) -> str:
    """One line for each arm and metric at the end of the budget, with the paired difference and the cost."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["seeds", "steps", "metric", "mean", "low", "high", "chance", "ceiling"]
    head += ["difference", "difference_low", "difference_high", "verdict", *COSTS, "parameters", "parameters_fusion"]
    writer.writerow([*table.plan.matrix.axes, *head])
    for row in table.rows:
        costs = [_cell(row.costs.get(name)) for name in COSTS]
        counts = [row.parameters.get("all", ""), row.parameters.get("fusion", "")]
        for metric in table.metrics:
            last, change = row.last(metric.name), row.difference(metric.name)
            value = None if last is None else last.estimate
            numbers = [*_bounds(value), *map(_cell, row.anchors[metric.name]), *_bounds(change)]
            told = [table.verdict(row, metric), *costs, *counts]
            seeds = 0 if value is None else value.seeds
            writer.writerow([*row.arm.chosen.values(), seeds, row.steps, metric.name, *numbers, *told])
    return text.getvalue()


def _bounds(found: Estimate | None) -> list[str]:
    return ["", "", ""] if found is None else [_cell(found.mean), _cell(found.low), _cell(found.high)]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
