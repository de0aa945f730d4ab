"""A page about a prepared dataset: histograms of its scores, players of clips, what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovikit.data.prepared import PreparedDataset, Row, told
from ovikit.errors import UserError
from ovikit.evaluation.figures import Onsets, draw_clip
from ovikit.extras import require
from ovikit.files import atomic_path, atomic_write_text
from ovikit.generate.media import viewing_scale, write_clip

TEMPLATE = "dataset_page.html.j2"
LISTED = 200
"""Most clips that were left out and are listed."""
_KEPT, _LEFT_OUT = "#1c7ed6", "#e8590c"


def write_page(dataset: PreparedDataset, folder: Path, clips: int) -> Path:
    """The path of the page, in a folder with its figures and players.

    clips: how many are shown, evenly spaced over the dataset; their files have to be where they were

    UserError where the extra ``report`` is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    require("matplotlib", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ovikit.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    kept, rows = dataset.kept, dataset.rows
    left_out = [row.candidate for row in rows if row.candidate.by is not None]
    step = max(1, len(kept) // clips) if clips else 1
    shown = [_player(dataset, index, folder) for index in list(range(0, len(kept), step))[:clips]]
    counts = Counter(row.candidate.bucket for row in kept)
    html = environment.get_template(TEMPLATE).render(
        title=dataset.path.name,
        facts=dataset.facts,
        forms=[(told(form), counts.get(k, 0)) for k, form in enumerate(dataset.forms)],
        seconds=sum(dataset.forms[k].duration_s * n for k, n in counts.items() if k is not None),
        histograms=_histograms(rows, folder),
        reasons=Counter(one.by for one in left_out).most_common(),
        left_out=left_out[:LISTED],
        more=max(0, len(left_out) - LISTED),
        notes=Counter(note for row in kept for note in row.candidate.notes).most_common(),
        shown=shown,
    )
    path = folder / "index.html"
    atomic_write_text(path, html)
    return path


def _player(dataset: PreparedDataset, index: int, folder: Path) -> dict[str, Any]:
    """A clip as it was encoded: cut, cropped and resized, with its sound."""
    one = dataset.kept[index].candidate
    told_of = {"name": one.name, "prompt": one.prompt, "scores": dict(one.scores)}
    try:
        clip = dataset[index]
    except UserError as error:
        return told_of | {"media": None, "figure": None, "reason": error.render()}
    media = folder / "clips" / f"{index:06d}.mp4"
    scale = 1 if clip.video is None else viewing_scale(*clip.video.shape[1:3])
    write_clip(media, clip, scale)
    figure = None
    if clip.video is not None and clip.audio is not None:
        figure = f"clips/{index:06d}.png"
        draw_clip(clip, Onsets(), folder / figure)
    return told_of | {"media": f"clips/{media.name}", "figure": figure, "reason": None}


def _histograms(rows: Sequence[Row], folder: Path) -> list[tuple[str, str]]:
    """(score, file) of each score's histogram: clips that stay, and those that this or a later filter leaves out."""
    names = list(dict.fromkeys(name for row in rows for name in row.candidate.scores))
    pyplot = require("matplotlib.pyplot", extra="report")
    found: list[tuple[str, str]] = []
    for name in names:
        values = [
            [row.candidate.scores[name] for row in rows if name in row.candidate.scores and (row.place is None) == out]
            for out in (False, True)
        ]
        figure, axes = pyplot.subplots(figsize=(4.6, 2.4), layout="constrained")
        axes.hist(values, bins=30, stacked=True, color=[_KEPT, _LEFT_OUT], label=["in the dataset", "left out"])
        axes.set_xlabel(name.replace("_", " "))
        axes.set_ylabel("clips")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        file = f"{name}.png"
        with atomic_path(folder / file) as temporary:
            figure.savefig(temporary, dpi=130)
        pyplot.close(figure)
        found.append((name, file))
    return found
