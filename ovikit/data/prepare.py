"""A folder of media files to a prepared dataset: scan, choose, encode, and go on where it stopped."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.data.encoder import Encoder
from ovikit.data.folder import SOUND_SUFFIXES, SUFFIXES, find_videos
from ovikit.data.prepared import (
    DATASET,
    MANIFEST,
    TEXT,
    Ingredients,
    Row,
    changes,
    fingerprint_of,
    ingredients,
    told,
)
from ovikit.data.scan import VERSION as SCAN_VERSION
from ovikit.data.scan import Candidate, Scanner, without_repeats
from ovikit.data.scenes import VERSION as SCENES_VERSION
from ovikit.data.shards import Place, write_shard
from ovikit.data.video import probe
from ovikit.errors import UserError, listed
from ovikit.files import alone_in, atomic_path, atomic_write_json, sha256_of
from ovikit.networks.loaded import loaded
from ovikit.networks.protocols import Codec, Conditioner
from ovikit.recipe import build
from ovikit.recipe.models import Recipe
from ovikit.recipe.preparation import Preparation
from ovikit.types import AV, Clip, ClipSpec

WORK, SHARDS = "work", "shards"
OnBad = Literal["skip", "stop"]
Report = Callable[[str, int, int], None]
"""Called with what is done, how many of it are done, from 0 on, and how many there are."""


@dataclass(frozen=True)
class Recorded:
    """What is known of a file after it was scanned."""

    size: int
    sha256: str
    candidates: list[Candidate]


def forms_of(recipe: Recipe) -> tuple[ClipSpec, ...]:
    """The forms that clips of the recipe's datasets may have."""
    own, buckets = build.clip_spec(recipe), preparation_of(recipe).buckets
    return tuple(replace(own, **bucket.to_dict()) for bucket in buckets) or (own,)


def preparation_of(recipe: Recipe) -> Preparation:
    """The recipe's preparation, with the defaults where it has none."""
    if recipe.preparation is not None:
        return recipe.preparation
    return build.default_preparation()


def wants_first_frames(recipe: Recipe) -> bool:
    """Whether the first frames of clips are encoded alone."""
    chosen, training = preparation_of(recipe).first_frames, recipe.training
    wanted = chosen if chosen is not None else training is not None and training.first_frame > 0
    return wanted and "video" in recipe.model.modalities


def make_scanner(recipe: Recipe, folder: Path, assets: Assets) -> Scanner:
    """What looks at the files of a folder."""
    chosen = preparation_of(recipe)
    conditioner = build.build_conditioner(recipe, assets)
    filters = [(slot.type, build.build_slot(slot, assets=assets)) for slot in chosen.filters]
    captioner = build.build_slot(chosen.captioner, assets=assets)
    return Scanner(
        folder, forms_of(recipe), recipe.model.modalities, chosen, captioner, filters, conditioner.prepare
    )  # fmt: skip


class Preparing:
    """Makes a dataset of the files in ``folder``, in the folder ``out``.

    workers: processes that scan files, and threads that read clips ahead while they are encoded; the dataset does not
             depend on how many
    weights: folder of the weights that the recipe names
    device:  where clips are encoded
    on_bad:  what to do about files that cannot be read: leave them out, or stop

    What was done before an interruption is not done again. UserError where ``out`` holds a dataset of something else,
    saying what has changed.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        out: Path,
        *,
        workers: int = 1,
        weights: Path | None = None,
        device: torch.device | str = "cpu",
        on_bad: OnBad = "skip",
        report: Report = lambda what, done, total: None,
    ) -> None:
        self.recipe, self.folder, self.out = recipe, folder, out
        self.workers, self.weights, self.device, self.on_bad, self.report = workers, weights, device, on_bad, report
        self.preparation, self.forms = preparation_of(recipe), forms_of(recipe)
        self.assets = build.find_assets(weights)

    def run(self) -> Path:
        """The folder of the whole dataset."""
        if not self.folder.is_dir():
            raise UserError("there is no such folder", str(self.folder))
        if self.out.resolve() == self.folder.resolve():
            raise UserError("the dataset cannot lie in the folder of its clips itself", str(self.out))
        suffixes = SUFFIXES if "video" in self.recipe.model.modalities else SUFFIXES | SOUND_SUFFIXES
        paths = find_videos(self.folder, True, suffixes)
        out = self.out.resolve()
        names = [path.relative_to(self.folder).as_posix() for path in paths if out not in path.resolve().parents]
        self.scanner = make_scanner(self.recipe, self.folder, self.assets)
        codecs, conditioner = (
            build.build_codecs(self.recipe, self.assets),
            build.build_conditioner(self.recipe, self.assets),
        )
        made_of = ingredients(codecs, conditioner, self.forms, wants_first_frames(self.recipe))
        with alone_in(self.out):
            self._settle(made_of)
            scanned = self._scan(names)
            self._refuse_changed(scanned)
            candidates = without_repeats(
                [one for name in names for one in scanned[name].candidates], self.scanner.filters
            )
            kept = [one for one in candidates if one.by is None]
            if not kept:
                reasons = listed([f"{one.name}: {one.why}" for one in candidates], 4)
                raise UserError(f"none of {len(candidates)} clips is left: {reasons}", str(self.folder))
            self._encode(candidates, {name: scanned[name].sha256 for name in names}, codecs, conditioner, made_of)
        return self.out

    def _settle(self, made_of: Ingredients) -> None:
        """Notes what this dataset is made of and how it is cut. UserError where it was begun otherwise."""
        chosen = self.preparation
        plan = made_of | {
            "folder": str(self.folder.resolve()),
            "scan": f"{SCAN_VERSION}.{SCENES_VERSION}",
            "modalities": ", ".join(self.recipe.model.modalities),
            "scenes": json.dumps(chosen.scenes.to_dict()),
            "clips": json.dumps([chosen.stride_s, chosen.per_scene, chosen.margins, chosen.clips_per_shard]),
            "buckets": "; ".join(map(told, self.forms)),
            "captions": self.scanner.captioner.fingerprint(),
            "filters": "; ".join(judge.fingerprint() for _, judge in self.scanner.filters) or "none",
            "format": chosen.latents,
        }
        path = self.out / WORK / "plan.json"
        if not path.exists():
            if (self.out / DATASET).exists():
                raise UserError("this folder holds a dataset that was made elsewhere", str(self.out))
            atomic_write_json(path, plan)
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError("this file is damaged", str(path), f"delete {self.out} and begin again") from error
        if found := changes(there, plan):
            raise UserError(
                "this folder holds a dataset that was made with something else\n    " + "\n    ".join(found),
                str(self.out),
                "give another folder with --out, or delete this one",
            )

    # Scanning.

    def _scan(self, names: Sequence[str]) -> dict[str, Recorded]:
        """What is known of each file."""
        found: dict[str, Recorded] = {}
        left: list[str] = []
        for name in names:
            known = self._recorded(name)
            left.append(name) if known is None else found.update({name: known})
        self.report("files", len(found), len(names))
        for name, record in self._scan_all(left):
            bad = next((one for one in record.candidates if one.by == "reading"), None)
            if bad is not None and self.on_bad == "stop":
                raise UserError(
                    f"this file cannot be used: {bad.why}", str(self.folder / name),
                    "mend or move it; --on-bad-clip skip leaves such files out",
                )  # fmt: skip
            data = {
                "file": name, "size": record.size, "sha256": record.sha256,
                "candidates": [one.to_json() for one in record.candidates],
            }  # fmt: skip
            atomic_write_json(self._record(name), data)
            found[name] = record
            self.report("files", len(found), len(names))
        return found

    def _record(self, name: str) -> Path:
        return self.out / WORK / "files" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"

    def _recorded(self, name: str) -> Recorded | None:
        """What an earlier preparation found in a file that is still the same."""
        path, file = self._record(name), self.folder / name
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            candidates = [Candidate.from_json(one) for one in data["candidates"]]
            if data["size"] != file.stat().st_size or data["sha256"] != digest_of(file):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Recorded(data["size"], data["sha256"], candidates)

    def _scan_all(self, names: Sequence[str]) -> Iterator[tuple[str, Recorded]]:
        if self.workers <= 1 or len(names) <= 1:
            yield from ((name, scan_file(self.scanner, name)) for name in names)
            return
        context = multiprocessing.get_context("spawn")
        start = (self.recipe, self.folder, self.weights)
        with ProcessPoolExecutor(self.workers, context, _start_worker, start) as pool:
            futures = [pool.submit(_scan_here, name) for name in names]
            for name, future in zip(names, futures, strict=True):
                try:
                    yield name, future.result()
                except BrokenProcessPool as error:
                    raise UserError(
                        f"a worker process was killed while files were scanned, at {name} or one of the next",
                        str(self.folder),
                        "often memory ran out: try fewer --workers. The same command goes on, what was scanned is kept",
                    ) from error

    def _refuse_changed(self, scanned: Mapping[str, Recorded]) -> None:
        """UserError where a whole dataset was made of other files."""
        if not (self.out / DATASET).exists():
            return
        there = json.loads((self.out / DATASET).read_text(encoding="utf-8"))["files"]
        here = {name: record.sha256 for name, record in scanned.items()}
        words = [
            *(f"{name} is new" for name in here if name not in there),
            *(f"{name} is gone" for name in there if name not in here),
            *(f"{name} has changed" for name in here if name in there and here[name] != there[name]),
        ]
        if words:
            raise UserError(
                f"this dataset was made of other files: {listed(words, 4)}", str(self.out),
                "give another folder with --out, or delete this one",
            )  # fmt: skip

    # Encoding.

    def _encode(
        self, candidates: Sequence[Candidate], files: Mapping[str, str], codecs: AV[Codec], conditioner: Conditioner,
        made_of: Ingredients,
    ) -> None:  # fmt: skip
        kept = [k for k, one in enumerate(candidates) if one.by is None]
        shards = list(self._shards(candidates, kept))
        rows = [Row(one, None, {}) for one in candidates]
        done, longest = 0, 0
        self.report("clips", 0, len(kept))
        encoder = Encoder(codecs, conditioner, self.forms, wants_first_frames(self.recipe), self.preparation.latents)
        with loaded(*codecs.values(), device=self.device), loaded(conditioner, device=self.device):
            for number, members in enumerate(shards):
                entry = self._shard(number, [(k, candidates[k]) for k in members], encoder, files)
                for k, place, said in zip(members, entry["places"], entry["said"], strict=True):
                    rows[k] = Row(candidates[k], Place(**place), said)
                longest = max(longest, entry["text_length"])
                done += len(members)
                self.report("clips", done, len(kept))
            empty = encoder.text("")
        place = write_shard(self.out / SHARDS / "empty.tar", [(0, {TEXT: empty}, {"prompt": ""})])[0]
        self._finish(rows, files, made_of, max(longest, len(empty)), replace(place, shard=f"{SHARDS}/{place.shard}"))

    def _shards(self, candidates: Sequence[Candidate], kept: Sequence[int]) -> Iterator[list[int]]:
        """Clips of one form each, in order."""
        size = self.preparation.clips_per_shard
        for bucket in range(len(self.forms)):
            own = [k for k in kept if candidates[k].bucket == bucket]
            yield from (own[at : at + size] for at in range(0, len(own), size))

    def _shard(
        self, number: int, members: Sequence[tuple[int, Candidate]], encoder: Encoder, files: Mapping[str, str]
    ) -> dict[str, Any]:
        """What is known of a shard, which is written unless it is there already."""
        path = self.out / SHARDS / f"{number:05d}.tar"
        entry = self.out / WORK / "shards" / f"{number:05d}.json"
        facts = [one.to_json() | {"sha256": files[one.file]} for _, one in members]
        mark = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        if entry.exists() and path.exists():
            try:
                known = json.loads(entry.read_text(encoding="utf-8"))
                if known["mark"] == mark and known["size"] == path.stat().st_size:
                    return known
            except (ValueError, KeyError):
                pass  # written again below
        clips = encoder.encode(self._read(one for _, one in members), [one for _, one in members], self.device)
        said: list[dict[str, bool]] = []
        lengths = [0]

        def members_of() -> Iterator[tuple[int, Mapping[str, Tensor], Mapping[str, Any]]]:
            for (k, one), (tensors, spoken) in zip(members, clips, strict=True):
                said.append(spoken)
                lengths.extend(len(value) for key, value in tensors.items() if key.startswith(TEXT))
                yield k, tensors, {"name": one.name, "prompt": one.prompt, "scores": dict(one.scores)}

        places = write_shard(path, members_of())
        known = {
            "mark": mark, "size": path.stat().st_size, "said": said, "text_length": max(lengths),
            "places": [asdict(replace(place, shard=f"{SHARDS}/{place.shard}")) for place in places],
        }  # fmt: skip
        atomic_write_json(entry, known)
        return known

    def _read(self, members: Iterable[Candidate]) -> Iterator[Clip]:
        """The clips, a few of them read ahead."""

        def read(one: Candidate) -> Clip:
            found = probe(self.folder / one.file, picture="video" in self.recipe.model.modalities)
            return replace(self.scanner.read(one, found), prompt=one.prompt)

        with ThreadPoolExecutor(self.workers) as pool:
            waiting: deque[Future[Clip]] = deque()
            for one in members:
                waiting.append(pool.submit(read, one))
                if len(waiting) > 2 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _finish(
        self, rows: Sequence[Row], files: Mapping[str, str], made_of: Ingredients, text_length: int, empty: Place
    ) -> None:
        with atomic_path(self.out / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as handle:
            for row in rows:
                handle.write(json.dumps(row.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
        kept = [row for row in rows if row.place is not None]
        facts = {
            "recipe": self.recipe.name,
            "folder": str(self.folder.resolve()),
            "clips": len(kept),
            "modalities": list(self.recipe.model.modalities),
            "buckets": [asdict(form) for form in self.forms],
            "text_length": text_length,
            "empty": asdict(empty),
            "made_of": made_of,
            "fingerprint": fingerprint_of(made_of, kept),
            "files": dict(files),
        }
        stale = self.out / SHARDS
        used = {row.place.shard.rpartition("/")[2] for row in kept if row.place is not None} | {"empty.tar"}
        for path in stale.iterdir():
            if path.name not in used:
                path.unlink() if path.is_file() else shutil.rmtree(path)
        atomic_write_json(self.out / DATASET, facts)


def digest_of(file: Path) -> str:
    """Hex sha256 of a file, and of its captions where there are any beside it."""
    beside = [file.with_suffix(suffix) for suffix in (".txt", ".json")]
    return "+".join(sha256_of(path) for path in (file, *beside) if path.is_file())


def scan_file(scanner: Scanner, name: str) -> Recorded:
    """What is known of a file."""
    path = scanner.root / name
    return Recorded(path.stat().st_size, digest_of(path), scanner.scan(name))


_scanner: Scanner | None = None


def _start_worker(recipe: Recipe, folder: Path, weights: Path | None) -> None:
    global _scanner
    torch.set_num_threads(1)
    _scanner = make_scanner(recipe, folder, build.find_assets(weights))


def _scan_here(name: str) -> Recorded:
    assert _scanner is not None  # the pool has started this process
    return scan_file(_scanner, name)
