"""From a media file to the clips that might be cut from it: where they lie, what is said of them, and why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ovikit.data.filters import Captioner, Comparing, Filter
from ovikit.data.folder import SLACK_S
from ovikit.data.scenes import Look, look_through
from ovikit.data.video import WHOLE, Box, Probe, probe, read_window
from ovikit.errors import UserError
from ovikit.networks.protocols import Prepared
from ovikit.recipe.preparation import Preparation
from ovikit.types import Clip, ClipSpec, Modality

VERSION = 1
"""Changes whenever the same file would give other clips."""


@dataclass(frozen=True)
class Candidate:
    """A clip that might be cut, or a file that none is cut from.

    file:       below the folder of the files, with slashes
    start_s:    from the file's first frame
    bucket:     its form; None where nothing is cut
    scene:      number of the scene, from 0
    notes:      what the author of the prompt should know
    by, why:    what leaves it out, and in words; None: it stays
    signatures: what comparing filters keep of it, by their place in the recipe
    """

    file: str
    start_s: float = 0.0
    bucket: int | None = None
    scene: int = 0
    box: Box = WHOLE
    prompt: str = ""
    notes: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    by: str | None = None
    why: str | None = None
    signatures: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def name(self) -> str:
        return self.file if self.bucket is None else f"{self.file}@{self.start_s:.2f}s"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        return cls(**{**data, "box": Box(**data["box"]), "notes": tuple(data["notes"])})

    def without(self, by: str, why: str) -> Candidate:
        return replace(self, by=by, why=why)


@dataclass(frozen=True)
class Scanner:
    """Looks at one file at a time.

    root:       folder of the files
    forms:      of clips, in the order of the recipe's buckets
    modalities: what a clip has to have
    filters:    by name, in the order of the recipe
    prepare:    brings a prompt into the form that the model was trained with
    """

    root: Path
    forms: Sequence[ClipSpec]
    modalities: tuple[Modality, ...]
    preparation: Preparation
    captioner: Captioner
    filters: Sequence[tuple[str, Filter | Comparing]]
    prepare: Callable[[str], Prepared]

    def scan(self, name: str) -> list[Candidate]:
        """Every clip that might be cut from the file, in order; one candidate that says why where there is none."""
        path = self.root / name
        whole = Candidate(name)
        try:
            found = probe(path, picture="video" in self.modalities)
            if "audio" in self.modalities and not found.sound:
                return [whole.without("sound", "it has no sound")]
            look = self._look(path, found)
            cut = list(self._cut(whole, look, found))
            if not cut:
                shortest = min(form.duration_s for form in self.forms)
                longest = max((end - start for start, end in look.scenes), default=0.0)
                return [whole.without("length", f"its longest scene has {longest:.2f} s, a clip {shortest:g} s")]
            return [self._judged(one, path, found) for one in cut]
        except UserError as error:
            return [whole.without("reading", error.what)]

    def _look(self, path: Path, found: Probe) -> Look:
        if not found.picture or "video" not in self.modalities:
            return Look(((0.0, found.duration_s),), WHOLE)
        scenes = self.preparation.scenes
        return look_through(
            path, found.origin_s, found.duration_s, scenes.detector, scenes.threshold, scenes.shortest_s,
            self.preparation.margins,
        )  # fmt: skip

    def _cut(self, whole: Candidate, look: Look, found: Probe) -> Iterator[Candidate]:
        """Of each scene: the longest form that fits, again and again."""
        most, stride_s = self.preparation.per_scene, self.preparation.stride_s
        for number, (start, end) in enumerate(look.scenes):
            at, cut = start, 0
            while most is None or cut < most:
                bucket = self._best(end - at, look.box, found)
                if bucket is None:
                    break
                yield replace(whole, start_s=round(at, 6), bucket=bucket, scene=number, box=look.box)
                at, cut = at + (stride_s or self.forms[bucket].duration_s), cut + 1

    def _best(self, room_s: float, box: Box, found: Probe) -> int | None:
        """Of the forms that fit, those nearest to the picture's shape; of these the longest, then the largest."""
        fit = [k for k, form in enumerate(self.forms) if form.duration_s <= room_s + SLACK_S]
        if not fit:
            return None

        def rank(k: int) -> tuple[float, float, int, int]:
            form = self.forms[k]
            cut_off = 0.0
            if found.aspect is not None:
                shape = found.aspect * (box.right - box.left) / (box.bottom - box.top)
                cut_off = round(abs(math.log(shape * form.height_px / form.width_px)), 3)
            return cut_off, -form.duration_s, -form.height_px * form.width_px, k

        return min(fit, key=rank)

    def read(self, one: Candidate, found: Probe) -> Clip:
        """The clip, without a prompt. UserError where it cannot be decoded."""
        assert one.bucket is not None
        form = self.forms[one.bucket]
        video, audio = read_window(
            self.root / one.file, found.origin_s, one.start_s, form, one.box, modalities=self.modalities
        )
        truth = {"file": one.file, "start_s": one.start_s}
        return Clip(one.name, "", video, audio, form.frame_rate_hz, form.sample_rate_hz, truth)

    def _judged(self, one: Candidate, path: Path, found: Probe) -> Candidate:
        try:
            clip = self.read(one, found)
        except UserError as error:
            return one.without("reading", error.what)
        scores: dict[str, float] = {}
        signatures: dict[str, str] = {}
        for place, (name, judge) in enumerate(self.filters):
            if isinstance(judge, Comparing):
                signatures[str(place)] = judge.signature(clip)
                continue
            verdict = judge.judge(clip)
            scores |= verdict.scores
            if verdict.why is not None:
                return replace(one, scores=scores, by=name, why=verdict.why)
        one = replace(one, scores=scores, signatures=signatures)
        prompt = self.captioner.caption(clip, path)
        if prompt is None:
            return one.without("captioner", "it has no caption")
        prepared = self.prepare(prompt)
        return replace(one, prompt=prepared.text, notes=prepared.notes)


def without_repeats(
    candidates: Sequence[Candidate], filters: Sequence[tuple[str, Filter | Comparing]]
) -> list[Candidate]:
    """The candidates, those left out that repeat an earlier one that stays."""
    found = list(candidates)
    for place, (name, judge) in enumerate(filters):
        if not isinstance(judge, Comparing):
            continue
        kept = [k for k, one in enumerate(found) if one.by is None]
        repeats = judge.repeats([found[k].signatures[str(place)] for k in kept])
        for k, first in zip(kept, repeats, strict=True):
            if first is not None:
                found[k] = found[k].without(name, f"it shows what {found[kept[first]].name} shows")
    return found
