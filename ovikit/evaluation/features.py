"""Features of decoded files, kept on disk: a clip is decoded once for all its evaluators, and once for all runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av

from ovikit.errors import UserError
from ovikit.evaluation.protocols import (
    Comparing,
    Costly,
    Evaluator,
    Needing,
    PromptItem,
    Score,
    Selecting,
    SelectingByMetric,
    Unscored,
    Viewing,
)
from ovikit.files import atomic_write_text, sha256_of
from ovikit.generate.media import View, read_clip, read_views
from ovikit.types import AV, Clip, ClipSpec, Modality

CACHE = ".features"
DECODER = f"PyAV {av.__version__}, libavcodec {'.'.join(str(part) for part in av.library_versions['libavcodec'])}"

Features = Mapping[str, Any]
ItemFeatures = Mapping[str, Features] | Unscored
"""Of one item: features by measure, or why there are none."""


@dataclass(frozen=True, slots=True)
class Measure:
    """An evaluator of a suite. options: its slot as plain data, so that changed options mean new features."""

    name: str
    options: Mapping[str, Any]
    evaluator: Evaluator

    @property
    def view(self) -> View | None:
        """The form in which the evaluator wants clips; None: as the recipe has them."""
        return self.evaluator.view if isinstance(self.evaluator, Viewing) else None

    @property
    def exchanges(self) -> int | None:
        """How many exchanges its chance is measured with at most; None: as many as all."""
        return self.evaluator.exchanges if isinstance(self.evaluator, Costly) else None

    @property
    def lacking(self) -> str | None:
        """Why the evaluator cannot run here; None: it can."""
        needs = self.evaluator.needs if isinstance(self.evaluator, Needing) else ()
        return "; ".join(f"{one.name}: {one.missing}" for one in needs if one.missing is not None) or None

    def leaves_out(self, item: PromptItem, metric: str) -> Unscored | None:
        """Why a metric is not asked about an item; None: it is."""
        why = self.evaluator.leaves_out(item) if isinstance(self.evaluator, Selecting) else None
        if why is None and isinstance(self.evaluator, SelectingByMetric):
            why = self.evaluator.metric_leaves_out(metric, item)
        return None if why is None else Unscored(why, asked=False)

    def scores(self, pair: AV[Mapping[str, Features]], truth: ItemFeatures, item: PromptItem) -> Mapping[str, Score]:
        """The scores of a picture and a sound by their clips' features. truth: features of the ground truth.

        ValueError where the evaluator does not score exactly its metrics."""
        video, audio = pair["video"][self.name], pair["audio"][self.name]
        if isinstance(self.evaluator, Comparing):
            true = truth if isinstance(truth, Unscored) else truth[self.name]
            scores = self.evaluator.compare(video, audio, true, item)
        else:
            scores = self.evaluator.score(video, audio, item)
        wanted = {spec.name for spec in self.evaluator.metrics}
        if set(scores) != wanted:
            raise ValueError(f"evaluator '{self.name}' scored {sorted(scores)}, its metrics are {sorted(wanted)}")
        return scores

    def key(self, form: ClipSpec | None, media_sha256: str) -> str:
        """Changes with everything that may change the features of a file."""
        seen = repr(form) if self.view is None else repr(self.view)
        parts = [self.name, self.evaluator.version, dict(self.options), seen, DECODER, media_sha256]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def clip_features(
    path: Path,
    measures: Sequence[Measure],
    form: ClipSpec | None,
    need: Sequence[Modality],
    cache: Path | None = None,
) -> ItemFeatures:
    """The features of one file by measure, from the cache where they are there; Unscored where it cannot be read.
    Measures that cannot run here have none.

    The file is decoded at most once for the evaluators that want it in the form of the recipe, and once for those that
    have a view of their own.

    form:  of the recipe's clips; None: they come without a recipe
    need:  modalities without which there are no features
    cache: a folder; default: ``.features`` beside the file
    """
    if not path.is_file():
        return Unscored("there is no clip")
    folder = path.parent / CACHE if cache is None else cache
    digest = sha256_of(path)
    able = [one for one in measures if one.lacking is None]
    files = {one.name: folder / f"{path.stem}.{one.name}.{one.key(form, digest)[:24]}.json" for one in able}
    found = {name: kept for name, file in files.items() if (kept := _read(file)) is not None}
    missing = [one for one in able if one.name not in found]
    if not missing:
        return found
    try:
        clips = _decoded(path, [one.view for one in missing], form, need)
    except UserError as error:
        return Unscored(error.what)
    for one in missing:
        features = one.evaluator.features(replace(clips[one.view], name=path.stem))
        text = _plain_json(features, one.name)
        atomic_write_text(files[one.name], text)
        # What a first run scores is what a later one reads from the cache.
        found[one.name] = json.loads(text)
    return found


def _decoded(
    path: Path, views: Sequence[View | None], form: ClipSpec | None, need: Sequence[Modality]
) -> dict[View | None, Clip]:
    """The clip in every form that is asked for."""
    found: dict[View | None, Clip] = {}
    if None in views and form is not None:
        size = form.height_px, form.width_px
        found[None] = read_clip(path, need=need, size_px=size, sample_rate_hz=form.sample_rate_hz)
    own = {view: view or View() for view in views if view not in found}
    seen = read_views(path, tuple(own.values()), need) if own else {}
    return found | {view: seen[shown] for view, shown in own.items()}


def _plain_json(features: Features, name: str) -> str:
    try:
        return json.dumps(features, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"evaluator '{name}' gave features that are not plain, finite JSON data: {error}") from error


def _read(file: Path) -> Features | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
