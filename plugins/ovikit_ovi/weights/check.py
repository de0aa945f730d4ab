"""Which files of a weights folder are there, whole and in their place: by their headers, or by reading every tensor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ovikit.checkpoints.assets import Assets, read_manifest
from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.load import SCALED_MARK, scale_names
from ovikit.checkpoints.state import TensorInfo, read_header, read_state
from ovikit.errors import UserError, listed
from ovikit_ovi.audio.keymap import VAE, VOCODER
from ovikit_ovi.formats import ovi_format
from ovikit_ovi.text.keymap import umt5_format
from ovikit_ovi.video.keymap import wan_vae_format
from ovikit_ovi.weights.layout import (
    FILES,
    TOKENIZER_FILES,
    VARIANTS,
    WeightsFile,
    forms,
    in_one_spelling,
    needed_by,
    released_size,
)

FORMATS: Mapping[str, Callable[[], CheckpointFormat]] = {
    "ovi": ovi_format,
    "wan-vae": wan_vae_format,
    "umt5": umt5_format,
    "mmaudio-vae": lambda: VAE,
    "bigvgan": lambda: VOCODER,
}
"""The names of each kind of file, ours and the official ones."""

State = Literal["ok", "missing", "damaged", "wrong"]
Told = Callable[[str, int, int], None]
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_ENOUGH = 0.5
"""Share of names by which a file counts as one of a kind, however much else is wrong with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What there is of one file.

    state:  ok; missing; damaged: it cannot be read as a weights file; wrong: it holds other tensors than it should
    told:   what is wrong, or worth knowing
    path:   where it was found; None: nowhere
    sha256: where it was asked for
    """

    file: WeightsFile
    state: State
    told: str
    path: Path | None = None
    bytes: int = 0
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole folder.

    own: in ovikit's own layout
    """

    folder: Path
    own: bool
    findings: tuple[Finding, ...]

    def runnable(self) -> tuple[str, ...]:
        """The variants that every file is there for."""
        whole = {finding.file.name for finding in self.findings if finding.state == "ok"}
        return tuple(name for name in VARIANTS if all(file.name in whole for file in needed_by(name)))


def check_folder(folder: Path, full: bool = False, told: Told | None = None) -> Report:
    """What there is of every file of the layout.

    full: reads every tensor, refuses values that are not finite, and notes each file's sha256
    told: progress of that (file, bytes done, bytes in all)
    UserError where there is no such folder.
    """
    if not folder.is_dir():
        what = (
            "this is a file, and a weights folder is wanted" if folder.exists() else "there is no such weights folder"
        )
        raise UserError(what, str(folder))
    manifest = read_manifest(folder)
    findings = [check_file(folder, file, manifest) for file in FILES]
    if full:
        total, done = sum(one.bytes for one in findings if one.state == "ok"), 0
        for i, one in enumerate(findings):
            if one.state == "ok":
                findings[i] = _read_whole(one, manifest, _counted_on(told, done, total))
                done += one.bytes
    return Report(folder, bool(manifest), tuple(findings))


def _counted_on(told: Told | None, before: int, total: int) -> Callable[[str, int], None]:
    """What tells of the bytes of one file, as part of those of all of them."""

    def count(what: str, done: int) -> None:
        if told is not None:
            told(what, min(before + done, total), total)

    return count


def check_file(folder: Path, file: WeightsFile, manifest: Mapping[str, Any]) -> Finding:
    """What there is of one file in a folder with this manifest (empty: official layout), by its header."""
    try:
        path = Assets(folder).path(file.name)
    except UserError:
        return Finding(file, "missing", _elsewhere(folder, file, bool(manifest)))
    size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) if path.is_dir() else path.stat().st_size
    if file.form == "tokenizer":
        problem = _tokenizer_problem(path)
        return Finding(file, "damaged" if problem else "ok", problem, path, size)
    try:
        header = official_header(path, file)
    except UserError as error:
        return Finding(file, "damaged", error.what, path, size)
    problem = header_problem(header, file)
    return Finding(file, "wrong" if problem else "ok", problem or size_note(header, file), path, size)


def _elsewhere(folder: Path, file: WeightsFile, own: bool) -> str:
    """Where a missing file lies instead, if it does."""
    last = Path(file.own if own else file.name).name
    found = (folder / last, *sorted(folder.glob(f"*/{last}")), *sorted(folder.glob(f"*/*/{last}")))
    for path in (folder.parent / file.name, *found):
        if path.exists() and path.is_dir() == (file.form == "tokenizer"):
            if path == folder.parent / file.name:
                return f"it is in {folder.parent}: give that folder"
            return f"misplaced: it is at {path.relative_to(folder)}"
    return ""


def _tokenizer_problem(path: Path) -> str:
    if not path.is_dir():
        return "this is a file, and a folder is wanted"
    if not any(all((path / name).is_file() for name in names) for names in TOKENIZER_FILES):
        return f"neither {' nor '.join(' and '.join(names) for names in TOKENIZER_FILES)} is in it"
    for name in (name for names in TOKENIZER_FILES for name in names):
        one = path / name
        if one.is_file():
            with one.open("rb") as handle:
                head = handle.read(64)
            if not head or head.startswith((b"version https://git-lfs", b"<")):
                return f"{name} is empty, a git-lfs pointer or a web page"
            if one.suffix == ".json" and not _is_json(one):
                return f"{name} is not whole: perhaps truncated"
    return ""


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:  # of the text or of its encoding
        return False
    return True


def official_header(path: Path, file: WeightsFile) -> dict[str, TensorInfo]:
    """A file's header in official names, whichever names the file has; names that neither layout knows as they are.
    UserError where it cannot be read."""
    header = read_header(path, file.within)
    wanted = forms()[file.form]
    if wanted.likeness([in_one_spelling(name) for name in header]) >= _ENOUGH:
        return header
    keymap, found = FORMATS[file.form]().keymap, {}
    for name, info in header.items():
        blank = torch.empty(info.shape, dtype=info.dtype, device="meta")
        try:
            [(official, changed)] = keymap.to_official({name: blank}).items()
        except KeyError:
            official, changed = name, blank
        found[official] = TensorInfo(tuple(changed.shape), info.dtype)
    return found if wanted.likeness([in_one_spelling(name) for name in found]) >= _ENOUGH else header


def header_problem(header: Mapping[str, TensorInfo], file: WeightsFile) -> str:
    """What is wrong with a file's tensors; empty where they are those that belong in it."""
    scales = set(scale_names(header).values())
    plain = {in_one_spelling(name): info for name, info in header.items() if name not in scales and name != SCALED_MARK}
    form = forms()[file.form]
    if form.likeness(plain) < _ENOUGH:
        return f"this is no {file.form} file{_recognised(plain)}"
    wanted = form.tensors(form.depth(plain))
    missing = [name for name in wanted if name not in plain]
    unexpected = [name for name in plain if name not in wanted]
    misshapen = _misshapen(plain, wanted)
    problems = [
        f"{len(names)} {what}: {listed(names, 3)}"
        for what, names in (
            ("tensors missing", missing),
            ("tensors that do not belong", unexpected),
            ("of the wrong shape", misshapen),
        )
        if names
    ]
    is_float8 = any(info.dtype in _FLOAT8 for info in plain.values())
    if file.form == "ovi" and is_float8 != file.fp8:
        problems.append(f"its matrices are {'' if is_float8 else 'not '}float8: it belongs under another name")
    return "; ".join(problems)


def _recognised(names: Mapping[str, TensorInfo]) -> str:
    """What else a file is, by its names."""
    for kind, form in forms().items():
        ours = FORMATS[kind]().keymap
        if form.likeness(names) >= _ENOUGH or form.likeness(_translated(ours.official, names)) >= _ENOUGH:
            purpose = next(file.purpose for file in FILES if file.form == kind)
            return f", but one of {kind} ({purpose.split(',')[0]})"
    return f": its first tensors are {listed(list(names), 3)}"


def _translated(official: Callable[[str], str], names: Mapping[str, TensorInfo]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(official(name))
        except KeyError:
            found.append(name)
    return found


def _misshapen(found: Mapping[str, TensorInfo], wanted: Mapping[str, tuple[int | str, ...]]) -> list[str]:
    """The tensors whose sizes do not go with those of the rest: a file of other widths than released may be right in
    itself, and is where each released size has become one other everywhere."""
    pairs = [
        (released, size)
        for name, sizes in wanted.items()
        if name in found and len(found[name].shape) == len(sizes)
        for released, size in zip(sizes, found[name].shape, strict=True)
    ]
    counted: dict[int | str, Counter[int]] = {}
    for released, size in pairs:
        counted.setdefault(released, Counter())[size] += 1
    usual = {released: _usual(counts) for released, counts in counted.items()}
    told = []
    for name, sizes in wanted.items():
        right = tuple(usual.get(size, released_size(size)) for size in sizes)
        if name in found and found[name].shape != right:
            # Where two tensors have nobody to agree with, either may be the wrong one.
            told.append(f"{name} is {found[name].shape}" + ("" if None in right else f", not {right}"))
    return told


def _usual(counts: Counter[int]) -> int | None:
    """The most common size; None where two are as common."""
    first, *others = counts.most_common(2)
    return None if others and others[0][1] == first[1] else first[0]


def size_note(header: Mapping[str, TensorInfo], file: WeightsFile) -> str:
    """How a file that is right in itself differs from the released one in its sizes; empty where it does not."""
    form = forms()[file.form]
    layers = form.depth([in_one_spelling(name) for name in header])
    found = {in_one_spelling(name): info for name, info in header.items()}
    other: dict[int, int] = {}
    for name, sizes in form.tensors(layers).items():
        if name in found:
            for size, here in zip(sizes, found[name].shape, strict=True):
                if released_size(size) != here:
                    other.setdefault(released_size(size), here)
    differences = [f"{here} for {size}" for size, here in sorted(other.items(), reverse=True)]
    if layers != form.layers:
        differences.insert(0, f"{layers} layers for {form.layers}")
    return f"not the released size: {listed(differences, 3)}" if differences else ""


def _read_whole(finding: Finding, manifest: Mapping[str, Any], told: Callable[[str, int], None]) -> Finding:
    """The finding after every tensor was read. Values that are not finite make a file damaged, and so does a sha256
    other than the one that a converted folder notes."""
    assert finding.path is not None
    digest = Assets().digest_of(finding.path)
    problem = ""
    if manifest.get("files", {}).get(finding.file.name, {}).get("sha256", digest) != digest:
        problem = "its content is not what it was when the folder was written"
    elif finding.path.is_file() and (bad := _not_finite(finding, told)):
        problem = f"{len(bad)} tensors hold values that are not finite: {listed(bad, 3)}"
    told(finding.file.name, finding.bytes)
    return replace(finding, state="damaged" if problem else "ok", told=problem or finding.told, sha256=digest)


def _not_finite(finding: Finding, told: Callable[[str, int], None]) -> list[str]:
    assert finding.path is not None
    tensors, _ = read_state(finding.path, finding.file.within)
    bad, done = [], 0
    for name, one in tensors.items():
        # torch has no isfinite for float8; NaN stays NaN on the way to float32.
        if one.is_floating_point() and not torch.isfinite(one.float() if one.dtype in _FLOAT8 else one).all():
            bad.append(name)
        done += one.nbytes
        told(finding.file.name, done)
    return bad
