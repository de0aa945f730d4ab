"""The ``prepared`` dataset: latents in shards, what they were made of, and the clips themselves while their files are
there.

Shape legend: b clips, l text tokens, c channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.data.encoded import Bucket, Encoded
from ovikit.data.scan import Candidate
from ovikit.data.shards import DamagedClipError, Place, read_tensors_at
from ovikit.data.video import probe, read_window
from ovikit.errors import UserError, listed
from ovikit.networks.protocols import Codec, Conditioner
from ovikit.types import AV, MODALITIES, Clip, ClipSpec, Modality, Text

LAYOUT = 1
"""Version of the files of a dataset; one of another version is not read."""
DATASET, MANIFEST = "dataset.json", "manifest.jsonl"
FIRST, TEXT = "first", "text"
Ingredients = dict[str, str]
"""What latents depend on, each in words, by the words that an error names it with."""


def ingredients(
    codecs: AV[Codec], conditioner: Conditioner, forms: Sequence[ClipSpec], first_frames: bool
) -> Ingredients:
    """What the latents of clips of these forms depend on, beside the clips."""
    made: Ingredients = {"layout": str(LAYOUT)}
    for modality, codec in codecs.items():
        for form in forms:
            made[f"{modality} codec for {told(form)}"] = codec.for_clip(form).fingerprint()
    made["conditioner"] = conditioner.fingerprint()
    if codecs.video is not None:
        made["first frames"] = "encoded alone" if first_frames else "not encoded alone"
    return made


def told(form: ClipSpec) -> str:
    """A form in words."""
    size = f"{form.width_px} x {form.height_px} px"
    return f"{form.duration_s:g} s, {size}, {form.frame_rate_hz:g} Hz, {form.sample_rate_hz} Hz"


def changes(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What differs, in words."""
    keys = [*there, *(key for key in here if key not in there)]
    return [
        f"{key}: {there.get(key, 'none')} there, {here.get(key, 'none')} here"
        for key in keys
        if there.get(key) != here.get(key)
    ]


@dataclass(frozen=True)
class Row:
    """A line of the manifest.

    place: of its tensors; None where it was left out
    said:  whether it says something to each tower, where they read apart; nothing where all read all
    """

    candidate: Candidate
    place: Place | None
    said: Mapping[str, bool]

    def to_json(self) -> dict[str, Any]:
        facts = self.candidate.to_json()
        del facts["signatures"]
        found = None if self.place is None else asdict(self.place)
        return {"name": self.candidate.name, **facts, "place": found, "said": dict(self.said)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        facts = {key: value for key, value in data.items() if key not in ("name", "place", "said")}
        place = None if data["place"] is None else Place(**data["place"])
        return cls(Candidate.from_json(facts), place, data["said"])


class PreparedDataset:
    """A folder that ``ovikit data prepare`` made. As a dataset of clips it cuts them from their files again.

    clip: the recipe's form, whose rates have to be the dataset's

    UserError for a folder that holds no whole dataset, or one of other rates.
    """

    def __init__(self, path: Path, clip: ClipSpec | None = None) -> None:
        self.path = path
        self.facts = _read_facts(path)
        self.forms = tuple(ClipSpec(**form) for form in self.facts["buckets"])
        if clip is not None:
            own, wanted = self.forms[0], (clip.frame_rate_hz, clip.sample_rate_hz)
            if (own.frame_rate_hz, own.sample_rate_hz) != wanted:
                raise UserError(
                    f"this dataset has {own.frame_rate_hz:g} pictures and {own.sample_rate_hz} samples a second, "
                    f"the recipe has {wanted[0]:g} and {wanted[1]}",
                    str(path),
                    "prepare it again with this recipe",
                )

    @property
    def root(self) -> Path:
        """The folder that the clips were cut from."""
        return Path(self.facts["folder"])

    @property
    def made_of(self) -> Ingredients:
        return dict(self.facts["made_of"])

    @cached_property
    def rows(self) -> list[Row]:
        """Every clip that might have been, in order. UserError for a damaged manifest."""
        return list(read_manifest(self.path / MANIFEST))

    @cached_property
    def kept(self) -> list[Row]:
        found = [row for row in self.rows if row.place is not None]
        if len(found) != self.facts["clips"]:
            raise UserError(
                f"it lists {len(found)} clips, the dataset has {self.facts['clips']}", str(self.path / MANIFEST)
            )
        return found

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Clip:
        one = self.kept[index].candidate
        assert one.bucket is not None
        form, path = self.forms[one.bucket], self.root / one.file
        if not path.is_file():
            raise UserError("the file of this clip is gone; its latents are not", str(path))
        modalities = tuple(m for m in MODALITIES if m in self.facts["modalities"])
        origin_s = probe(path, picture="video" in modalities).origin_s
        video, audio = read_window(path, origin_s, one.start_s, form, one.box, modalities)
        truth = {"file": one.file, "start_s": one.start_s}
        return Clip(one.name, one.prompt, video, audio, form.frame_rate_hz, form.sample_rate_hz, truth)

    def fingerprint(self) -> str:
        return str(self.facts["fingerprint"])

    def open(self, codecs: AV[Codec], conditioner: Conditioner, first_frames: bool) -> PreparedClips:
        """The latents. UserError that says what is different, where they were made with something else."""
        lacking = [m for m in codecs.modalities if m not in self.facts["modalities"]]
        if lacking:
            raise UserError(
                f"this dataset has no {lacking[0]}, which is to be trained", str(self.path),
                f"prepare it with a recipe that has {lacking[0]}, or train without {lacking[0]}",
            )  # fmt: skip
        there = self.made_of
        wanted = ingredients(codecs, conditioner, self.forms, first_frames)
        if not first_frames:
            there["first frames"] = wanted.get("first frames", "")
        if found := changes({key: there.get(key, "none") for key in wanted}, wanted):
            raise UserError(
                "this dataset was made with something else\n    " + "\n    ".join(found),
                str(self.path),
                "prepare it again in another folder, or train with the recipe that it was prepared with",
            )
        return PreparedClips(self, codecs.modalities, first_frames)


class PreparedClips:
    """The latents of a prepared dataset, read clip by clip when they are asked for.

    Texts are as long as the longest of the dataset, so that a clip's do not depend on which others are in its batch.
    """

    def __init__(self, dataset: PreparedDataset, modalities: tuple[Modality, ...], first_frames: bool) -> None:
        self.dataset, self._modalities, self._first = dataset, modalities, first_frames
        self._length = int(dataset.facts["text_length"])
        self.names = tuple(row.candidate.name for row in dataset.kept)
        places = [row.place for row in dataset.kept]
        self._places = [place for place in places if place is not None]
        by_bucket: dict[int, list[int]] = {}
        for index, row in enumerate(dataset.kept):
            assert row.candidate.bucket is not None
            by_bucket.setdefault(row.candidate.bucket, []).append(index)
        self.buckets = tuple(Bucket(dataset.forms[bucket], by_bucket[bucket]) for bucket in sorted(by_bucket))

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def empty(self) -> Text:
        place = Place(**self.dataset.facts["empty"])
        return self._texts([read_tensors_at(self.dataset.path, place, "''")[TEXT]])

    def read(self, indices: Sequence[int]) -> Encoded:
        folder = self.dataset.path
        found: list[dict[str, Tensor]] = []
        for index in indices:
            try:
                found.append(read_tensors_at(folder, self._places[index], self.names[index]))
            except DamagedClipError as error:
                error.index = index
                raise
        latents = {m: torch.stack([one[m].float() for one in found]) for m in self._modalities}
        if TEXT in found[0]:
            both = self._texts([one[TEXT] for one in found])
            text = dict.fromkeys(self._modalities, both)
        else:
            text = {m: self._texts([one[f"{TEXT}.{m}"] for one in found]) for m in self._modalities}
        first = torch.stack([one[FIRST].float() for one in found]) if self._first else None
        return Encoded(AV.of(latents), AV.of(text), first)

    def _texts(self, tokens: Sequence[Tensor]) -> Text:
        """(b, l, c) of texts (l, c), each with zeros behind it."""
        lengths = torch.tensor([len(one) for one in tokens])
        padded = [torch.nn.functional.pad(one.float(), (0, 0, 0, self._length - len(one))) for one in tokens]
        return Text(torch.stack(padded), lengths)

    def silent(self) -> AV[int]:
        said = [row.said for row in self.dataset.kept]
        if not said or not said[0]:
            return AV()
        return AV.of({m: sum(any(one.values()) and not one[m] for one in said) for m in self._modalities})


@dataclass(frozen=True, slots=True)
class Damage:
    """A clip of a dataset that is not what was written."""

    name: str
    why: str


def check_dataset(dataset: PreparedDataset) -> Iterator[Damage | None]:
    """For each clip of a dataset, and its empty prompt, what is wrong with it."""
    names = [row.candidate.name for row in dataset.kept] + ["the empty prompt"]
    places = [row.place for row in dataset.kept] + [Place(**dataset.facts["empty"])]
    for name, place in zip(names, places, strict=True):
        assert place is not None
        try:
            tensors = read_tensors_at(dataset.path, place, name)
        except DamagedClipError as error:
            yield Damage(name, error.render())
            continue
        wrong = [key for key, value in tensors.items() if not value.isfinite().all()]
        yield Damage(name, f"NaN or Inf in {listed(wrong)}") if wrong else None


def read_manifest(path: Path) -> Iterator[Row]:
    """The rows of a manifest. UserError naming the line that cannot be read."""
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, start=1):
                try:
                    yield Row.from_json(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError("this line is no clip of a dataset", f"{path}:{number}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the manifest cannot be read ({error})", str(path)) from error


def _read_facts(path: Path) -> dict[str, Any]:
    file = path / DATASET
    if not file.is_file():
        begun = (path / "work").is_dir()
        what = "this dataset is not whole: its preparation was interrupted" if begun else "there is no dataset here"
        hint = "go on with the same ovikit data prepare" if begun else "ovikit data prepare FOLDER makes one"
        raise UserError(what, str(path), hint)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        version = found["made_of"]["layout"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("this file does not describe a dataset", str(file)) from error
    if version != str(LAYOUT):
        raise UserError(f"this dataset has layout {version}, this ovikit reads layout {LAYOUT}", str(path))
    return found


def fingerprint_of(made_of: Ingredients, rows: Sequence[Row]) -> str:
    """Hex digest of what latents are made of and of the clips, with the bytes of each."""
    clips = [(row.candidate.name, row.candidate.prompt, row.place and row.place.crc32) for row in rows]
    return hashlib.sha256(json.dumps([made_of, clips], sort_keys=True).encode()).hexdigest()
