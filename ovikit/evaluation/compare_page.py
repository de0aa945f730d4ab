"""Two or more results as one page: differences by metric, and the items that differ most, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovikit.evaluation.compare import aligned
from ovikit.evaluation.metrics import Interval, gain_over
from ovikit.evaluation.results import MetricResult, Results
from ovikit.evaluation.words import ARROWS, show_interval, show_number, show_signed
from ovikit.extras import require
from ovikit.files import atomic_write_text
from ovikit.generate.jobs import media_path

TEMPLATE = "compare.html.j2"
EACH_SIDE = 2
"""Items shown of each metric that are better, and that are worse."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Results as they are called here. clips: the folder that was measured; None: it is not known where it lies."""

    label: str
    results: Results
    clips: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of both. gain: mean difference and its interval; None below two items that both have."""

    name: str
    metric: MetricResult
    theirs: MetricResult
    gain: tuple[float, Interval] | None
    items: int
    verdict: str


def clips_of(results: Results, file: Path) -> Path | None:
    """The folder of the clips of a results file, where it lies beside it."""
    places = (file.parent / results.folder, file.parent)
    return next((one for one in places if one.name == results.folder and one.is_dir()), None)


def rows_of(first: Results, other: Results) -> list[Row]:
    """The metrics that both have."""
    found = []
    for name, metric in first.metrics.items():
        if name not in other.metrics:
            continue
        ours, new = aligned(first, other, name)
        gain = gain_over(new, ours)
        items = len(set(new.scores) & set(ours.scores))
        found.append(Row(name, metric, other.metrics[name], gain, items, _verdict(metric, gain)))
    return found


def _verdict(metric: MetricResult, gain: tuple[float, Interval] | None) -> str:
    if gain is None:
        return "fewer than two items in both"
    low, high = gain[1]
    if low <= 0 <= high:
        return "not told apart"
    if float(show_signed(gain[0], metric)) == 0:
        return "less apart than is shown"
    if metric.direction == "neither":
        return "more" if low > 0 else "less"
    return "better" if (low > 0) == (metric.direction == "higher") else "worse"


def write_page(first: Labelled, others: Sequence[Labelled], path: Path, forced: bool = False) -> Path:
    """Writes the page; its clips are linked by relative paths. UserError where the extra ``report`` is missing."""
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ovikit.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": show_number, "interval": show_interval, "signed": show_signed}
    told = [
        {
            "label": other.label,
            "rows": rows_of(first.results, other.results),
            "shown": [
                _shown(first, other, name, index, path.parent)
                for name in first.results.metrics
                if name in other.results.metrics
                for index in most_different(first.results, other.results, name)
            ],
        }
        for other in others
    ]
    html = environment.get_template(TEMPLATE).render(first=first, others=told, arrows=ARROWS, forced=forced)
    atomic_write_text(path, html)
    return path


def most_different(first: Results, other: Results, name: str) -> list[int]:
    """The items whose scores differ most: first those that are better in ``other``, then those that are worse."""
    direction = first.metrics[name].direction
    if direction == "neither":
        return []
    sign = 1 if direction == "higher" else -1
    ours, new = aligned(first, other, name)
    both = sorted(set(ours.scores) & set(new.scores))
    gains = {item: sign * (new.scores[item] - ours.scores[item]) for item in both}
    order = sorted(gains, key=lambda item: -gains[item])
    better = [item for item in order[:EACH_SIDE] if gains[item] > 0]
    return better + [item for item in order[: -EACH_SIDE - 1 : -1] if gains[item] < 0]


def _shown(first: Labelled, other: Labelled, name: str, index: int, home: Path) -> Mapping[str, Any]:
    metric, item = first.results.metrics[name], first.results.items[index]
    before, after = (one.scores[index] for one in aligned(first.results, other.results, name))
    return {
        "id": item.id,
        "prompt": item.prompt,
        "metric": name,
        "words": f"{other.label} {show_signed(after - before, metric)}",
        "sides": [
            {"label": one.label, "score": show_number(score, metric), "media": _media(one.clips, item.id, home)}
            for one, score in ((first, before), (other, after))
        ],
    }


def _media(folder: Path | None, name: str, home: Path) -> str | None:
    if folder is None or not media_path(folder, name).is_file():
        return None
    return Path(os.path.relpath(media_path(folder, name), home)).as_posix()
