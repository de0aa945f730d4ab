"""Runs of different recipes on the same prompts, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovikit.errors import UserError, listed
from ovikit.evaluation.metrics import Summary, gain_over, summarise
from ovikit.evaluation.results import MetricResult, Results
from ovikit.files import atomic_write_json, atomic_write_text


def scores_of(results: Results, metric: str) -> Summary:
    """The per-item scores of a metric, as the aggregation had them."""
    rows = [item.scores[metric] for item in results.items]
    return summarise({i: score for i, score in enumerate(rows) if score is not None}, {})


def aligned(first: Results, other: Results, metric: str) -> tuple[Summary, Summary]:
    """The per-item scores of a metric of both, by the place that an item of that name has in the first."""
    place = {item.id: i for i, item in enumerate(first.items)}
    there = {place[item.id]: item.scores[metric] for item in other.items if item.id in place}
    new = summarise({i: score for i, score in there.items() if score is not None}, {})
    return scores_of(first, metric), new


def refuse_unlike(first: Results, other: Results, one: str, two: str) -> None:
    """UserError where two results were measured in different ways, so that their difference means nothing.

    one, two: what the user calls them
    """
    wrong = [
        f"{what} {a} and {b}"
        for what, a, b in (
            ("profiles", first.profile, other.profile),
            ("suites", _suite(first), _suite(other)),
            ("prompt sets", _prompts(first), _prompts(other)),
            ("decoders", first.decoder, other.decoder),
        )
        if a != b
    ]
    if first.overall is not None and other.overall is not None and first.overall.version != other.overall.version:
        wrong.append(f"versions {first.overall.version} and {other.overall.version} of the overall score")
    for name, metric in first.metrics.items():
        theirs = other.metrics.get(name)
        if theirs is not None and theirs.version != metric.version:
            wrong.append(f"versions {metric.version} and {theirs.version} of {name}")
    if wrong:
        raise UserError(
            f"they were measured in different ways: {listed(wrong, 4)}", f"{one} and {two}",
            "measure both again, or compare them all the same with --force",
        )  # fmt: skip


def _prompts(results: Results) -> str:
    told = results.prompt_set
    return "without files" if told is None else f"{told.name} ({told.digest[:12]})"


def _suite(results: Results) -> str:
    return f"{results.suite.name} ({results.suite.digest[:12]})"


def comparison(first: Results, others: Mapping[str, Results], forced: bool = False) -> dict[str, Any]:
    """Each metric of each run: value, interval, chance, share of the way, and the difference from ``first``, paired by
    prompt. ValueError where the runs were not measured by the same suite, unless that is ``forced``."""
    runs = {first.subject: first, **others}
    if not forced and len({one.suite.digest for one in runs.values()}) > 1:
        raise ValueError("runs of different suites cannot be compared")
    return {
        "suite": first.suite.model_dump(),
        "profile": first.profile,
        "baseline": first.subject,
        "runs": {
            name: {
                "digest": None if one.recipe is None else one.recipe.digest,
                "metrics": {metric: _entry(one, first, metric) for metric in first.metrics if metric in one.metrics},
            }
            for name, one in runs.items()
        },
    }


def _entry(results: Results, first: Results, name: str) -> dict[str, Any]:
    metric = results.metrics[name]
    difference = None
    if results is not first:
        ours, new = aligned(first, results, name)
        difference = gain_over(new, ours)
    return {
        "value": metric.value,
        "interval": metric.interval,
        "chance": None if metric.chance is None else metric.chance.value,
        "chance_in_interval": chance_in_interval(metric),
        "ceiling": None if metric.ceiling is None else metric.ceiling.value,
        "share": None if metric.share is None else metric.share.value,
        "scored": metric.scored,
        "difference": None if difference is None else {"value": difference[0], "interval": difference[1]},
    }


def chance_in_interval(metric: MetricResult) -> bool | None:
    """Whether chance lies within the value's interval: the clips may as well have been given each other's sounds."""
    if metric.interval is None or metric.chance is None or metric.chance.value is None:
        return None
    return metric.interval[0] <= metric.chance.value <= metric.interval[1]


def write_comparison(data: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes ``comparison.json`` and ``comparison.md``; their paths."""
    rows, metrics = data["runs"], list(next(iter(data["runs"].values()))["metrics"])
    lines = [f"# {data['suite']['name']} ({data['profile']})", "", "| clips | " + " | ".join(metrics) + " |"]
    lines.append("|---|" + "---|" * len(metrics))
    for name, run in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(run["metrics"].get(metric)) for metric in metrics) + " |")
    lines += ["", "Value [95 % interval], share of the way from chance to ceiling.", ""]
    as_json, as_text = folder / "comparison.json", folder / "comparison.md"
    atomic_write_json(as_json, data)
    atomic_write_text(as_text, "\n".join(lines))
    return as_json, as_text


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "-"
    interval = "" if entry["interval"] is None else f" [{entry['interval'][0]:.2f}, {entry['interval'][1]:.2f}]"
    share = "" if entry["share"] is None else f", {100 * entry['share']:.0f} %"
    return f"{entry['value']:.2f}{interval}{share}"
