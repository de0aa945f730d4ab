"""Clips of a cascade: for each name that both folders have, one model's picture with the other's sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovikit.errors import UserError
from ovikit.files import alone_in, atomic_write_json, atomic_write_text, sha256_of
from ovikit.generate.jobs import is_whole, media_path, read_sidecar, sidecar_path
from ovikit.generate.mux import mux
from ovikit.generate.prompts import SAFE_ID
from ovikit.layout import CASCADE
from ovikit.recipe.lock import dump_yaml
from ovikit.recipe.models import Cascade

PICTURES = (".mp4", ".mkv", ".mov", ".webm")
SOUNDS = (".wav", ".flac", ".m4a", ".mp3", *PICTURES)


@dataclass(slots=True)
class Muxed:
    """What became of a cascade's clips.

    made, kept: names of clips that were written, and that lay there whole
    failed:     why, by the name of each clip that could not be made
    alone:      names that only one of the folders has, by the side that has them
    """

    folder: Path
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    alone: dict[str, list[str]] = field(default_factory=dict)


def files_of(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by name, the first of the endings where there are several. UserError where there is no
    such folder, or nothing in it."""
    if not folder.is_dir():
        raise UserError("there is no such folder", str(folder))
    found: dict[str, Path] = {}
    for ending in endings:
        for path in sorted(folder.glob(f"[!.]*{ending}")):
            if path.is_file() and SAFE_ID.fullmatch(path.stem):
                found.setdefault(path.stem, path)
    if not found:
        raise UserError(f"there are no files here that end in {', '.join(endings)}", str(folder))
    return found


def run(cascade: Cascade, out: Path, told: Callable[[int, int], None] = lambda done, total: None) -> Muxed:
    """Writes the clips of a cascade into a folder, and beside them what they are; those that lie there whole are kept.

    What cannot be read is told at the end, and the others are made. UserError where a folder is missing, or the two
    have no name in common, or the clips there are of another cascade.
    """
    sides = cascade.cascade
    pictures = files_of(Path(sides.video.folder).expanduser(), PICTURES)
    sounds = files_of(Path(sides.audio.folder).expanduser(), SOUNDS)
    both = sorted(pictures.keys() & sounds.keys())
    if not both:
        raise UserError("the two folders have no name in common", f"{sides.video.folder} and {sides.audio.folder}")
    alone = {"video": sorted(pictures.keys() - sounds.keys()), "audio": sorted(sounds.keys() - pictures.keys())}
    found = Muxed(out, alone={side: names for side, names in alone.items() if names})
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        _label(cascade, out)
        for done, name in enumerate(both, start=1):
            sources = {"video": sha256_of(pictures[name]), "audio": sha256_of(sounds[name])}
            sidecar = read_sidecar(out, name)
            if sidecar is not None and sidecar.get("cascade") == sources and is_whole(out, name, sidecar):
                found.kept.append(name)
            else:
                _make(found, name, pictures[name], sounds[name], {"id": name, "cascade": sources})
            told(done, len(both))
    return found


def _make(found: Muxed, name: str, picture: Path, sound: Path, told: Mapping[str, Any]) -> None:
    sidecar_path(found.folder, name).unlink(missing_ok=True)
    try:
        mux(picture, sound, media_path(found.folder, name))
    except UserError as error:
        found.failed[name] = str(error)
        return
    atomic_write_json(
        sidecar_path(found.folder, name), {**told, "media_sha256": sha256_of(media_path(found.folder, name))}
    )
    found.made.append(name)


def _label(cascade: Cascade, out: Path) -> None:
    """Writes what the clips of a folder are. UserError where they are something else."""
    text = dump_yaml(cascade.to_dict())
    label = out / CASCADE
    if label.is_file() and label.read_text(encoding="utf-8") != text:
        raise UserError("the clips here are of another cascade", str(label), "name another folder: --out DIR")
    atomic_write_text(label, text)
