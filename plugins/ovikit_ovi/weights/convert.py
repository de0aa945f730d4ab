"""A folder of weights, or what a run has trained, rewritten in a layout, tensor for tensor, one file after the other.

Tensors stay mapped from the file that they are read from: of a file of any size, only what is being written is in
memory, and the system may take that back (measured with 3 GB: no more memory of its own than for the smallest file).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor

from ovikit.checkpoints.assets import MANIFEST, MANIFEST_FORMAT, MANIFEST_VERSION, Assets, read_manifest
from ovikit.checkpoints.keymap import KeyMap
from ovikit.checkpoints.load import SCALED_MARK, write_tensors
from ovikit.checkpoints.state import read_state
from ovikit.errors import UserError
from ovikit.files import atomic_write_json, writing
from ovikit.generate.source import find_source
from ovikit.training.checkpoints import weights_of_checkpoint
from ovikit_ovi.weights.check import FORMATS, Finding, Told, check_file, header_problem, official_header
from ovikit_ovi.weights.layout import BY_NAME, FILES, VARIANTS, WeightsFile

LAYOUTS = ("ovikit", "official")
_METADATA = "official_metadata"
_ROOM = 1.02
"""What a written folder may take, as a multiple of what it was read from: headers differ."""
_EVERY_S = 0.5


def convert_folder(
    source: Path,
    target: Path,
    to: str,
    variants: Sequence[str] | None = None,
    overwrite: bool = False,
    told: Told | None = None,
) -> list[str]:
    """The names of what was written: every file of the source that the layout knows, in the layout ``to``.

    variants: whose joint models to take; None: all that are there
    told:     progress (file, bytes written, bytes in all), from a thread of its own
    UserError before anything is written where the source is not whole, the target is not free, or there is no room;
    nothing partial is left.
    """
    if not source.is_dir():
        what = (
            "this is a file, and a weights folder is wanted" if source.exists() else "there is no such weights folder"
        )
        raise UserError(what, str(source))
    own = bool(read_manifest(source))
    if own == (to == "ovikit"):
        raise UserError(f"this folder is in {'ovikit' if own else 'the official'} layout already", str(source))
    _refuse_target(source, target, overwrite)
    return _write(_to_convert(source, variants), own, target, to, overwrite, told)


def convert_run(
    run: Path,
    target: Path,
    to: str,
    variant: str | None = None,
    overwrite: bool = False,
    told: Told | None = None,
    checkpoint: str | None = None,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """The names of what was written: the joint model that a run has trained, in the layout ``to``.

    variant:    whose joint model it is; None: that of the file which the run started from
    checkpoint: one of the run's, in place of its last step
    dtype:      the number format of what is written, which is then put together in memory; None: as the run keeps it
    UserError as in ``convert_folder``, for a run of adapters, and for a model that is not of the released layout.
    """
    source = find_source(run, trained=None if checkpoint is None else weights_of_checkpoint(run, checkpoint))
    if source.adapters:
        hint = f"add them to their base: ovikit lora merge {run} --out FILE"
        raise UserError("this run trained adapters", str(run), hint)
    path = source.network()
    _refuse_target(run, target, overwrite)
    file = _file_of(variant, None if (slot := source.recipe.model.checkpoint) is None else slot.path, run)
    if problem := header_problem(official_header(path, file), file):
        raise UserError(f"what it trained is not of the official layout: {problem}", str(path))
    return _write([Finding(file, "ok", "", path, path.stat().st_size)], True, target, to, overwrite, told, dtype)


def _file_of(variant: str | None, base: str | None, run: Path) -> WeightsFile:
    """The joint model's file of a variant; None: the one that a run started from."""
    name = VARIANTS[variant][0] if variant is not None else base
    if name is None or name not in BY_NAME or BY_NAME[name].fp8:
        raise UserError(
            "whose joint model this is does not follow from the run's recipe", str(run),
            f"name it: --variant {', '.join(name for name, (file, _) in VARIANTS.items() if not BY_NAME[file].fp8)}",
        )  # fmt: skip
    return BY_NAME[name]


def _write(
    findings: Sequence[Finding],
    own: bool,
    target: Path,
    to: str,
    overwrite: bool,
    told: Told | None,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Writes a folder of these files, whose tensors have our names (``own``) or the official ones."""
    total = sum(finding.bytes for finding in findings)
    _refuse_full_disk(target, total)
    with _folder_beside(target, overwrite) as temporary, _watched(temporary, total, told) as now:
        entries: dict[str, dict[str, Any]] = {}
        for finding in findings:
            now.append(finding.file.name)
            name = finding.file.own if to == "ovikit" else finding.file.name
            _convert_file(finding, own, temporary / name, to, dtype)
            entries[finding.file.name] = {"path": name, "licence": finding.file.licence}
        if to == "ovikit":
            for name, entry in entries.items():
                entry["sha256"] = Assets().digest_of(temporary / entry["path"])
                entry["source"] = BY_NAME[name].told_source
            atomic_write_json(temporary / MANIFEST, _manifest(entries))
    return [*(entry["path"] for entry in entries.values()), *([MANIFEST] if to == "ovikit" else [])]


def _refuse_target(source: Path, target: Path, overwrite: bool) -> None:
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise UserError("the target is the source, or inside it", str(target))
    if target.is_file():
        raise UserError("this is a file, and a folder is to be written", str(target))
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError("this folder is not empty", str(target), "choose another one, or replace it with --overwrite")
    weights = any((target / name).exists() for file in FILES for name in (file.name, file.own)) or read_manifest(target)
    if not weights:
        raise UserError("this folder holds no weights, and is not overwritten", str(target), "choose another one")


def _to_convert(source: Path, variants: Sequence[str] | None) -> list[Finding]:
    """The files to convert. UserError for one that is not whole, a variant that is not there, or none at all."""
    wanted = None if variants is None else {VARIANTS[name][0] for name in variants}
    manifest, found = read_manifest(source), []
    for file in FILES:
        if file.is_joint_model and wanted is not None and file.name not in wanted:
            continue
        finding = check_file(source, file, manifest)
        if finding.state == "ok":
            found.append(finding)
        elif finding.state != "missing" or (wanted is not None and file.is_joint_model):
            told = finding.told or "it is missing"
            hint = f"see all that is wrong: ovikit weights check {source}"
            raise UserError(told, str(finding.path or source / file.name), hint)
    if not found:
        raise UserError("there are no weights in this folder", str(source), f"it wants {FILES[0].name} and others")
    return found


def _refuse_full_disk(target: Path, total: int) -> None:
    there = next(parent for parent in target.absolute().parents if parent.is_dir())
    free, wanted = shutil.disk_usage(there).free, _ROOM * total
    if free < wanted:
        raise UserError(f"{wanted / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free", str(there))


@contextmanager
def _folder_beside(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that becomes the target when all went well, and is gone when not."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        with writing(target):
            if overwrite and target.is_dir():
                old = temporary.with_name(f"{temporary.name}-old")
                target.rename(old)
                temporary.rename(target)
                shutil.rmtree(old)
            else:
                temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _watched(folder: Path, total: int, told: Told | None) -> Iterator[list[str]]:
    """A list to put the file's name in that is being written. Meanwhile ``told`` hears how the folder grows: the
    libraries that write know nothing of progress."""
    now: list[str] = []
    if told is None:
        yield now
        return
    done = Event()

    def watch() -> None:
        while not done.wait(_EVERY_S):
            if now:
                told(now[-1], min(_bytes_in(folder), total), total)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield now
        done.set()
        thread.join()
        told(now[-1], total, total)
    finally:
        done.set()
        thread.join()


def _bytes_in(folder: Path) -> int:
    found = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return found


def _convert_file(finding: Finding, own: bool, path: Path, to: str, dtype: torch.dtype | None) -> None:
    file, source = finding.file, finding.path
    assert source is not None
    if source.is_dir():
        with writing(path):
            shutil.copytree(source, path)
        return
    tensors, metadata = read_state(source, file.within)
    if dtype is not None:
        tensors = {name: one.to(dtype) if one.is_floating_point() else one for name, one in tensors.items()}
    keymap = FORMATS[file.form]().keymap
    if to == "ovikit":
        about = {"format": MANIFEST_FORMAT, "file": file.name, "licence": file.licence, "source": file.told_source}
        ours = tensors if own else _renamed(tensors, keymap, True)
        official = _official_metadata(metadata) if own else metadata
        write_tensors(path, _alone(ours), {**about, _METADATA: json.dumps(official)})
        return
    theirs = _renamed(tensors, keymap, False)
    if path.suffix == ".safetensors":
        write_tensors(path, theirs, _official_metadata(metadata))
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(theirs if file.within is None else {file.within: theirs}, path)


def _official_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """That of the official file which a converted one was; of what a run has trained, where it is from, and the mark
    that other tools look for."""
    if _METADATA in metadata:
        return json.loads(metadata[_METADATA])
    about = {f"ovikit.{key}": metadata[key] for key in ("recipe", "digest", "step", "weights") if key in metadata}
    return {"format": "pt", **about} if about else {}


def _renamed(tensors: Mapping[str, Tensor], keymap: KeyMap, to_ours: bool) -> dict[str, Tensor]:
    """The tensors under the other names; the mark of files with scaled float8 keeps its own."""
    plain = {name: one for name, one in tensors.items() if name != SCALED_MARK}
    marks = {name: one for name, one in tensors.items() if name == SCALED_MARK}
    return (keymap.to_ours(plain) if to_ours else keymap.to_official(plain)) | marks


def _alone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with memory of their own: two of a pickle may be one, which safetensors does not have."""
    seen: set[int] = set()
    made: dict[str, Tensor] = {}
    for name, one in tensors.items():
        start = one.untyped_storage().data_ptr()
        made[name] = one.clone() if start in seen else one
        seen.add(start)
    return made


def _manifest(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a folder in ovikit's own layout says of itself."""
    variants = {name: recipe.removesuffix(".yaml") for name, (joint, recipe) in VARIANTS.items() if joint in entries}
    licences = sorted({str(entry["licence"]) for entry in entries.values()})
    return {
        "format": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
        "variant": next(iter(variants), None),
        "variants": variants,
        "licences": licences,
        "files": dict(entries),
    }
