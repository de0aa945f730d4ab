"""What a suite's metrics can see: clips that get worse by known amounts, and how each metric responds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from ovikit.errors import UserError
from ovikit.evaluation.corruptions import CORRUPTIONS, Corruption
from ovikit.evaluation.features import DECODER, ItemFeatures, Measure, clip_features
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.evaluation.runner import NO_TRUTH, build_measures
from ovikit.extras import require
from ovikit.files import atomic_path, atomic_write_json
from ovikit.generate.jobs import media_path, read_sidecar
from ovikit.generate.media import AAC_RATES_HZ, View, read_views, write_clip
from ovikit.recipe.models import Suite
from ovikit.types import AV, MODALITIES, Clip

log = logging.getLogger(__name__)
TAKEN = View(longest_px=512)
"""Clips are taken in this form, so that each metric sees the same loss of detail in all of them."""
LEAST = 0.05
"""What moves a metric by less than this share of what the strongest corruption does, does not move it."""
SLACK = 0.1
"""A step back by less than this share of the whole way is none: what is lost altogether wavers."""

Course = Literal["up", "down", "not", "unsteady"]
Scores = Sequence[float | None]

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Response:
    """How a metric responds to a corruption.

    whole:  its mean over the clips as they are
    grades: its mean at each grade, over the clips that have a score there; None where none has
    scored: clips with a score, at each grade
    moves:  where to, with every grade further
    """

    whole: float
    grades: tuple[float | None, ...]
    scored: tuple[int, ...]
    moves: Course

    def agrees(self, spec: MetricSpec) -> bool | None:
        """Whether it moves the way that is worse; None: it does not move, or no way is worse."""
        if self.moves not in ("up", "down") or spec.direction == "neither":
            return None
        return self.moves == ("down" if spec.direction == "higher" else "up")


def made_clips(count: int = 3, side: int = 160) -> list[Clip]:
    """Clips with events to see and to hear, for whoever has no others at hand: a square that jumps over a texture, with
    a burst of noise each time."""
    return [_made(seed, side=side) for seed in range(count)]


def _made(seed: int, length_s: float = 4.0, rate_hz: int = 24, sound_hz: int = 48000, side: int = 160) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(8, generator=generator).cumsum(0)
    times = 0.2 + times / times[-1] * (length_s - 0.6)
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 24, 24, generator=generator), (side, side), mode="bicubic"
    )[0]
    texture = (60 + 100 * texture.clamp(0, 1)).permute(1, 2, 0)
    drift = torch.arange(round(length_s * rate_hz))
    video = torch.stack([texture.roll(int(k), dims=1) for k in drift]).round().to(torch.uint8)
    audio = 0.003 * torch.randn(round(length_s * sound_hz), generator=generator)
    bell = torch.exp(-torch.arange(round(0.2 * sound_hz)) / (0.03 * sound_hz))
    square, yellow = side // 3, torch.tensor([240, 200, 40], dtype=torch.uint8)
    for k, at in enumerate(times.tolist()):
        y, x = (int(v) for v in torch.randint(0, side - square, (2,), generator=generator))
        end = round(times[k + 1].item() * rate_hz) if k + 1 < len(times) else len(video)
        video[round(at * rate_hz) : end, y : y + square, x : x + square] = yellow
        burst = 0.25 * bell * torch.randn(len(bell), generator=generator)
        start = round(at * sound_hz)
        audio[start : start + len(burst)] += burst[: len(audio) - start]
    return Clip(f"made-{seed}", "", video, audio.clamp(-1, 1), float(rate_hz), sound_hz)


def read_clips(folder: Path) -> list[Clip]:
    """The clips of a folder that have picture and sound; others are left out with a warning. UserError where none is
    left."""
    if not folder.is_dir():
        raise UserError("there is no such folder of clips", str(folder))
    found: list[Clip] = []
    for path in sorted(folder.glob("[!.]*.mp4")):
        try:
            told = (read_sidecar(folder, path.stem) or {}).get("prompt")
            found.append(
                replace(read_views(path, (TAKEN,), MODALITIES)[TAKEN], prompt=told if isinstance(told, str) else "")
            )
        except UserError as error:
            log.warning("%s: %s; it is left out", path.name, error.what)
    if not found:
        raise UserError("there are no clips with picture and sound in this folder", str(folder))
    return found


def self_test(
    suite: Suite,
    clips: Sequence[Clip],
    home: Path,
    corruptions: Sequence[Corruption] = CORRUPTIONS,
    told: Told = lambda what, done, total: None,
) -> dict[str, Any]:
    """The response of every metric of the suite to every corruption of these clips, as plain values.

    The spoilt clips are written as files into ``home / "clips"``, as models' clips are, and measured there. UserError
    for a clip whose sound has a rate that files cannot have.
    """
    _refuse_rates(clips)
    measures = build_measures(suite, None)
    specs = {spec.name: spec for one in measures for spec in one.evaluator.metrics}
    total = len(clips) * (1 + sum(len(one.grades) for one in corruptions))
    done = 0
    table: dict[str, dict[str, list[list[float | None]]]] = {}
    whole: dict[str, list[float | None]] = {name: [] for name in specs}
    for one in corruptions:
        table[one.name] = {name: [[] for _ in one.grades] for name in specs}
    for clip in clips:
        for label, grade, spoilt in _versions(clip, corruptions):
            path = media_path(home / "clips", _name(clip, label, grade))
            write_clip(path, spoilt())
            found = clip_features(path, measures, None, ())
            scores = _scores(measures, found, PromptItem(clip.name, clip.prompt))
            for name, score in scores.items():
                if label is None:
                    whole[name].append(score)
                else:
                    table[label.name][name][label.grades.index(grade)].append(score)
            done += 1
            told("clips", done, total)
    responses = {
        name: responses_to(whole[name], {label: rows[name] for label, rows in table.items()}) for name in specs
    }
    return {
        "suite": {"name": suite.name, "digest": suite.digest}, "profile": suite.profile, "decoder": DECODER,
        "clips": [clip.name for clip in clips],
        "metrics": {
            name: {"direction": spec.direction, "unit": spec.unit, "version": spec.version, "summary": spec.summary}
            for name, spec in specs.items()
        },
        "corruptions": {
            one.name: {
                "unit": one.unit, "grades": list(one.grades), "summary": one.summary,
                "responses": {name: _plain(responses[name][one.name], spec) for name, spec in specs.items()},
            }
            for one in corruptions
        },
    }  # fmt: skip


def _refuse_rates(clips: Sequence[Clip]) -> None:
    for clip in clips:
        if clip.audio is not None and clip.sample_rate_hz not in AAC_RATES_HZ:
            raise UserError(f"clip {clip.name} has sound of {clip.sample_rate_hz} Hz, which MP4 files cannot have")


def _name(clip: Clip, corruption: Corruption | None, grade: float) -> str:
    return clip.name if corruption is None else f"{clip.name}-{corruption.name.replace(' ', '-')}-{grade:g}"


def _versions(
    clip: Clip, corruptions: Sequence[Corruption]
) -> list[tuple[Corruption | None, float, Callable[[], Clip]]]:
    """The clip as it is, and spoilt in every way to every grade; made when they are asked for."""
    found: list[tuple[Corruption | None, float, Callable[[], Clip]]] = [(None, 0.0, lambda: clip)]
    for one in corruptions:
        found += [(one, grade, lambda one=one, grade=grade: one(clip, grade)) for grade in one.grades]
    return found


def _scores(measures: Sequence[Measure], features: ItemFeatures, item: PromptItem) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for one in measures:
        names = [spec.name for spec in one.evaluator.metrics]
        asked = [name for name in names if one.leaves_out(item, name) is None]
        found |= dict.fromkeys(names, None)
        if asked and not isinstance(features, Unscored) and one.name in features:
            scores = one.scores(AV(features, features), NO_TRUTH, item)
            found |= {name: score for name in asked if isinstance(score := scores[name], float)}
    return found


def responses_to(whole: Scores, grades: Mapping[str, Sequence[Scores]]) -> dict[str, Response | None]:
    """The response of a metric to every corruption, from its scores of the clips as they are and of those spoilt to
    each grade; None where the clips as they are have no score. What moves it by little of what the strongest does
    counts as nothing."""
    base = [score for score in whole if score is not None]
    if not base:
        return dict.fromkeys(grades)
    # Each grade is set against the same clips as they are: one that loses its score does not move the mean.
    moved = {label: [_moved(whole, row) for row in rows] for label, rows in grades.items()}
    most = max((abs(one) for row in moved.values() for one, _ in row if one is not None), default=0.0)
    start = fmean(base)
    return {
        label: Response(
            start,
            tuple(None if one is None else start + one for one, _ in row),
            tuple(count for _, count in row),
            course_of([one for one, _ in row if one is not None], LEAST * most),
        )
        for label, row in moved.items()
    }


def _moved(whole: Scores, spoilt: Scores) -> tuple[float | None, int]:
    """The mean change of the clips that have a score before and after, and how many they are."""
    pairs = [(a, b) for a, b in zip(whole, spoilt, strict=True) if a is not None and b is not None]
    return fmean(b - a for a, b in pairs) if pairs else None, len(pairs)


def course_of(moved: Sequence[float], least: float) -> Course:
    """How something goes on whose change at each grade is ``moved``. least: what is below is none."""
    most = max(map(abs, moved), default=0.0)
    if most == 0 or most < least:
        return "not"
    steps = [b - a for a, b in pairwise([0.0, *moved])]
    if min(steps) >= -SLACK * most:
        return "up"
    return "down" if max(steps) <= SLACK * most else "unsteady"


def _plain(response: Response | None, spec: MetricSpec) -> dict[str, Any] | None:
    if response is None:
        return None
    return {
        "whole": response.whole, "grades": list(response.grades), "scored": list(response.scored),
        "moves": response.moves, "worse": response.agrees(spec),
    }  # fmt: skip


COLOURS = {True: "#2b8a3e", False: "#c92a2a", None: "#1c7ed6"}


def draw_self_test(found: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG: a small curve for each metric (rows) and corruption (columns); green where it moves the way that is
    worse, red where it moves the other way, blue where no way is worse, grey where it does not move or is unsteady."""
    require("matplotlib", extra="report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics, corruptions = list(found["metrics"]), found["corruptions"]
    figure = Figure(figsize=(1.25 * len(corruptions) + 2.2, 0.52 * len(metrics) + 1.1), dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(metrics), len(corruptions), squeeze=False)
    for column, (label, corruption) in enumerate(corruptions.items()):
        axes[0][column].set_title(label, fontsize=8)
        axes[-1][column].set_xlabel(f"{_range(corruption['grades'])}\n{corruption['unit']}", fontsize=6)
        for row, name in enumerate(metrics):
            _draw_cell(axes[row][column], corruption["responses"][name])
            if column == 0:
                arrow = {"higher": "↑", "lower": "↓", "neither": ""}[found["metrics"][name]["direction"]]
                axes[row][0].set_ylabel(f"{name} {arrow}", rotation=0, ha="right", va="center", fontsize=7)
    figure.tight_layout(h_pad=0.3, w_pad=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _range(grades: Sequence[float]) -> str:
    return f"{grades[0]:g} … {grades[-1]:g}"


def _draw_cell(axis: Any, response: Mapping[str, Any] | None) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("#e0e0dc")
    if response is None:
        return
    moved = response["moves"] in ("up", "down")
    values = [response["whole"], *response["grades"]]
    places = [k for k, value in enumerate(values) if value is not None]
    colour = COLOURS[response["worse"]] if moved else "#adb5bd"
    axis.plot(
        places, [values[k] for k in places], color=colour, linewidth=1.6 if moved else 1.0, marker=".", markersize=3
    )
    axis.set_xlim(-0.3, len(values) - 0.7)
    if response["moves"] == "not":  # a curve that stays where it is should look like it
        middle = response["whole"]
        reach = max(2 * abs(values[k] - middle) for k in places) or 1.0
        axis.set_ylim(middle - 2 * reach, middle + 2 * reach)


def write_self_test(found: Mapping[str, Any], home: Path) -> tuple[Path, Path]:
    """Writes ``self-test.json`` and ``self-test.png``; their paths."""
    as_json, as_picture = home / "self-test.json", home / "self-test.png"
    atomic_write_json(as_json, found)
    draw_self_test(found, as_picture)
    return as_json, as_picture
