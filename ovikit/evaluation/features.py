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
from ovikit.evaluation.protocols import Evaluator, Unscored
from ovikit.files import atomic_write_text, sha256_of
from ovikit.generate.media import read_clip
from ovikit.types import ClipSpec, Modality

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

    def key(self, form: ClipSpec, media_sha256: str) -> str:
        """Changes with everything that may change the features of a file."""
        parts = [self.name, self.evaluator.version, dict(self.options), repr(form), DECODER, media_sha256]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def clip_features(
    path: Path,
    measures: Sequence[Measure],
    form: ClipSpec,
    need: Sequence[Modality],
    cache: Path | None = None,
) -> ItemFeatures:
    """The features of one file by measure, from the cache where they are there; Unscored where it cannot be read.

    The file is decoded at most once, and given to every evaluator at the recipe's size and sample rate.
    cache: a folder; default: ``.features`` beside the file
    """
    if not path.is_file():
        return Unscored("there is no clip")
    folder = path.parent / CACHE if cache is None else cache
    digest = sha256_of(path)
    files = {one.name: folder / f"{path.stem}.{one.name}.{one.key(form, digest)[:24]}.json" for one in measures}
    found = {name: kept for name, file in files.items() if (kept := _read(file)) is not None}
    missing = [one for one in measures if one.name not in found]
    if not missing:
        return found
    try:
        clip = read_clip(path, need=need, size_px=(form.height_px, form.width_px), sample_rate_hz=form.sample_rate_hz)
    except UserError as error:
        return Unscored(error.what)
    for one in missing:
        features = one.evaluator.features(replace(clip, name=path.stem))
        text = _plain_json(features, one.name)
        atomic_write_text(files[one.name], text)
        # What a first run scores is what a later one reads from the cache.
        found[one.name] = json.loads(text)
    return found


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
