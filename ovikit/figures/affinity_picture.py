"""The affinity of two positional schemes as a picture, and as numbers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovikit.checkpoints.load import write_tensors
from ovikit.errors import UserError
from ovikit.extras import require
from ovikit.figures.affinity import Affinity, AffinityMap, between, middles_s, physical_steps
from ovikit.files import atomic_path, atomic_write_text
from ovikit.types import TokenGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT, QUIET = "#24292f", "#57606a"
_TRUE = "#ff4d4f"
"""Colour of what is true, whatever a scheme makes of it."""
_DATA = (".safetensors", ".csv")


def draw_affinity(found: Affinity, path: Path) -> None:
    """Writes a PNG: both maps, audio tokens to the right and video steps upwards, with the line of equal seconds."""
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 4.6), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    both = figure.subplots(1, 2, sharey=True)
    low = min(float(one.values.min()) for one in found.maps.values())
    shown = None
    for axes, (place, one) in zip(both, found.maps.items(), strict=True):
        shown = axes.imshow(one.values.T.numpy(), origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=1.0,
                            interpolation="nearest")  # fmt: skip
        true = physical_steps(found.grids)
        axes.plot(true, color="white", linewidth=2.6, alpha=0.7)
        axes.plot(true, color=_TRUE, linewidth=1.3, linestyle=(0, (4, 2)), label="equal seconds")
        axes.set_title(_title(place, one), color=TEXT, fontsize=10, loc="left", pad=8)
        axes.set_xlabel("audio token", color=TEXT, fontsize=9)
        _seconds(axes, found.grids["audio"], "x")
        axes.tick_params(colors=QUIET, labelsize=8)
        axes.set_xlim(-0.5, one.values.shape[0] - 0.5)
        axes.set_ylim(-0.5, one.values.shape[1] - 0.5)
    both[0].set_ylabel("video step", color=TEXT, fontsize=9)
    _seconds(both[1], found.grids["video"], "y")
    both[0].legend(loc="upper left", fontsize=8, framealpha=0.85, edgecolor="none")
    assert shown is not None
    bar = figure.colorbar(shown, ax=list(both), fraction=0.03, pad=0.015)
    bar.set_label("mean cosine of the angle between them", color=TEXT, fontsize=9)
    bar.ax.tick_params(colors=QUIET, labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]  # matplotlib's stubs take it for an Axes
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _title(place: str, one: AffinityMap) -> str:
    return f"{place}: {one.title}\nridge {one.distance_s:.3f} s off on average"


def _seconds(axes: Axes, grid: TokenGrid, axis: str) -> None:
    """A second axis that tells each step's time, at the top or to the right."""
    from matplotlib.ticker import MaxNLocator

    times, steps = middles_s(grid), np.arange(grid.shape[0], dtype=np.float64)
    if len(steps) < 2:
        return
    both_ways = (lambda x: between(np.asarray(x), steps, times), lambda s: between(np.asarray(s), times, steps))
    second = axes.secondary_xaxis("top", both_ways) if axis == "x" else axes.secondary_yaxis("right", both_ways)
    (second.set_xlabel if axis == "x" else second.set_ylabel)("seconds", color=QUIET, fontsize=8)
    second.tick_params(colors=QUIET, labelsize=7, length=2)
    (second.xaxis if axis == "x" else second.yaxis).set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))


def write_affinity(found: Affinity, path: Path) -> None:
    """Writes both maps, (audio tokens, video steps) in float64: as tensors, or as a table of pairs.

    UserError for a file that is neither .safetensors nor .csv.
    """
    if path.suffix == ".safetensors":
        told = {"recipe": found.recipe, **{place: json.dumps({"type": one.scheme, **one.options})
                                           for place, one in found.maps.items()}}  # fmt: skip
        write_tensors(path, {f"affinity.{place}": one.values for place, one in found.maps.items()}, told)
        return
    refuse_other_data(path)
    heard, seen = middles_s(found.grids["audio"]), middles_s(found.grids["video"])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("audio_token", "audio_s", "video_step", "video_s", *found.maps))
    values = [one.values.tolist() for one in found.maps.values()]
    for a in range(len(heard)):
        for v in range(len(seen)):
            table.writerow((a, f"{heard[a]:.6f}", v, f"{seen[v]:.6f}", *(repr(one[a][v]) for one in values)))
    atomic_write_text(path, text.getvalue())


def refuse_other_data(path: Path) -> None:
    """UserError for a file whose name says no format that the maps are written in."""
    if path.suffix not in _DATA:
        raise UserError(f"'{path.name}' ends in none of {', '.join(_DATA)}", "--data")
