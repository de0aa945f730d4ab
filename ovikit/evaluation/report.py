"""A report that opens without a server: one HTML file, its figures beside it, the clips by relative paths."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovikit.errors import UserError
from ovikit.evaluation.features import ItemFeatures, clip_features
from ovikit.evaluation.figures import draw_clip, onsets_of, training_chart
from ovikit.evaluation.protocols import Unscored
from ovikit.evaluation.results import MetricResult, Results
from ovikit.evaluation.runner import Bench
from ovikit.evaluation.words import ARROWS, show_interval, show_number, show_share
from ovikit.extras import require
from ovikit.files import atomic_write_text
from ovikit.generate.jobs import media_path
from ovikit.generate.media import View, read_clip, read_views
from ovikit.layout import METRICS
from ovikit.recipe.lock import dump_yaml
from ovikit.recipe.models import Recipe
from ovikit.types import MODALITIES

SHOWN = 12
TEMPLATE = "report.html.j2"
DRAWN = View(longest_px=256, sample_rate_hz=16000)
"""Form of the clips in figures, where there is no recipe to say it."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Where a metric lies between chance and ceiling, all in percent of the bar's length."""

    chance: float
    ceiling: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a report finds things. run: of the training, for its curve; None where it is not known."""

    clips: Path
    truth: Path
    run: Path | None = None


def bar_of(metric: MetricResult) -> Bar | None:
    """The bar of a metric; None where its share of the way is not known."""
    share = metric.share
    if share is None:
        return None
    low, high = share.interval or (share.value, share.value)
    start, end = min(0.0, low) - 0.08, max(1.0, high) + 0.08

    def place(x: float) -> float:
        return round(100 * (x - start) / (end - start), 2)

    return Bar(place(0.0), place(1.0), place(share.value), place(low), place(high))


def write_report(results: Results, recipe: Recipe | None, bench: Bench, folders: Folders, path: Path) -> Path:
    """Writes the report and its figures, a folder named like it; the path of the HTML file.

    The first clips are shown with players and figures, all are listed. UserError where the extra ``report`` is not
    installed.
    """
    jinja2 = require("jinja2", extra="report")
    require("matplotlib", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ovikit.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": show_number, "interval": show_interval, "percent": show_share}
    home, figures = path.parent, path.with_suffix("")
    figures = figures.with_name(f"{figures.name}-figures")
    items = [
        {
            "item": item,
            "generated": _side(bench, folders.clips, item.id, figures / f"{item.id}.png", home),
            "truth": _side(bench, folders.truth, item.id, figures / f"{item.id}-truth.png", home),
        }
        for item in results.items[:SHOWN]
    ]
    html = environment.get_template(TEMPLATE).render(
        results=results,
        headline=_headline(results),
        bars={name: bar_of(metric) for name, metric in results.metrics.items()},
        shown=items,
        links={item.id: _relative(media_path(folders.clips, item.id), home) for item in results.items},
        chart=None if folders.run is None else training_chart(folders.run / METRICS),
        recipe_yaml=None if recipe is None else dump_yaml(recipe.to_dict()),
        arrows=ARROWS,
        truth=any(one.ceiling is not None and one.ceiling.value is not None for one in results.metrics.values()),
        missing=_missing(results),
    )
    atomic_write_text(path, html)
    return path


def _headline(results: Results) -> tuple[str, MetricResult] | None:
    """The first metric whose share of the way is known."""
    return next(((name, one) for name, one in results.metrics.items() if one.share is not None), None)


def _missing(results: Results) -> dict[str, dict[int, list[str]]]:
    """Why items have no number: of how many, by reason, which metrics."""
    found: dict[str, dict[int, list[str]]] = {}
    for name, metric in results.metrics.items():
        for one in metric.unscored:
            found.setdefault(one.reason, {}).setdefault(one.count, []).append(name)
    return found


def _relative(path: Path, home: Path) -> str | None:
    return Path(os.path.relpath(path, home)).as_posix() if path.is_file() else None


def _side(bench: Bench, folder: Path, name: str, figure: Path, home: Path) -> dict[str, Any]:
    """A clip's player and figure, or why there is none."""
    media = media_path(folder, name)
    features: ItemFeatures = clip_features(media, bench.measures, bench.form, bench.need)
    if isinstance(features, Unscored):
        return {"media": None, "figure": None, "reason": features.reason}
    form = bench.form
    try:
        if form is None:
            clip = read_views(media, (DRAWN,), MODALITIES)[DRAWN]
        else:
            clip = read_clip(media, size_px=(form.height_px, form.width_px), sample_rate_hz=form.sample_rate_hz)
    except UserError as error:
        # One tower alone: there is a player, and nothing to set side by side in a figure.
        return {"media": _relative(media, home), "figure": None, "reason": error.what}
    draw_clip(replace(clip, name=name), onsets_of(features), figure)
    return {"media": _relative(media, home), "figure": _relative(figure, home), "reason": None}
