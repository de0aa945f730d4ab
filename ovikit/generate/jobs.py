"""What is to be made, and what already lies in the folder.

A clip is two files: ``ID.mp4``, and ``ID.json`` beside it, written last: how it was made, and that it is whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem
from ovikit.files import atomic_write_json, sha256_of
from ovikit.generate.media import viewing_scale, write_clip
from ovikit.generate.prompts import ID_HINT, SAFE_ID
from ovikit.generate.size import Size
from ovikit.types import AV, Clip

SIDECAR_FORMAT = 2


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """The picture that a clip begins with.

    crop: it is cut to the clip's proportions; otherwise stretched to its size
    """

    path: Path
    sha256: str
    crop: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a clip is, and what it begins with."""

    size_px: Size
    first: FirstFrame | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to make.

    id:    name of its files
    item:  id of its prompt
    text:  the prompt as it is encoded, for each tower
    seed:  of its noise
    """

    id: str
    item: str
    prompt: str
    text: AV[str]
    seed: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Origin:
    """What all clips of a run have in common.

    digest:  of the recipe
    weights: sha256 of the network's weights file
    parts:   fingerprints of the codecs and the conditioner, by their place in the recipe
    """

    recipe: str
    digest: str
    weights: str
    parts: Mapping[str, str]
    details: Mapping[str, Any]


def plan(
    items: Sequence[PromptItem], shapes: Sequence[Shape], texts: Sequence[AV[str]], seed: int, count: int = 1
) -> list[Job]:
    """``count`` clips of each prompt, the i-th of all with the noise of seed + i. Further takes of a prompt are
    named ID-1, ID-2, ...

    shapes: of the clips of each prompt
    texts:  the prompts as they are encoded, for each tower
    """
    for item in items:
        if not SAFE_ID.fullmatch(item.id):
            raise UserError(f"the id '{item.id}' cannot name a file", hint=ID_HINT)
    takes = [(one, take) for one in zip(items, shapes, texts, strict=True) for take in range(count)]
    jobs = [
        Job(item.id if take == 0 else f"{item.id}-{take}", item.id, item.prompt, text, seed + i, shape)
        for i, ((item, shape, text), take) in enumerate(takes)
    ]
    # Some file systems do not tell capitals from small letters.
    names = [job.id.lower() for job in jobs]
    twice = sorted({name for name, times in Counter(names).items() if times > 1})
    if twice:
        raise UserError(
            f"two clips would be named {twice[0]}",
            hint="give the prompts other ids; for several clips of a prompt there is --count",
        )
    return jobs


def media_path(folder: Path, clip: str) -> Path:
    return folder / f"{clip}.mp4"


def sidecar_path(folder: Path, clip: str) -> Path:
    return folder / f"{clip}.json"


def read_sidecar(folder: Path, clip: str) -> dict[str, Any] | None:
    """What a clip's sidecar says, or None where there is none or it is damaged."""
    try:
        data = json.loads(sidecar_path(folder, clip).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return data if isinstance(data, dict) else None


def _identity(job: Job, origin: Origin) -> dict[str, Any]:
    """What must agree for a clip to be the one that a job asks for."""
    return {
        "id": job.id,
        "prompt": job.prompt,
        "seed": job.seed,
        "size_px": list(job.shape.size_px),
        "first_frame": _first_frame(job.shape.first),
        "recipe": {"name": origin.recipe, "digest": origin.digest},
        "weights_sha256": origin.weights,
        "parts": dict(origin.parts),
    }


def _first_frame(first: FirstFrame | None) -> dict[str, Any] | None:
    return None if first is None else {"sha256": first.sha256, "cropped": first.crop}


def sidecar_of(job: Job, origin: Origin, run: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of how a clip was made.

    run: what another machine, or another try, would do otherwise: no part of the clip's identity
    """
    told: dict[str, Any] = {"format": SIDECAR_FORMAT, **_identity(job, origin), "item": job.item}
    if job.text.video != job.text.audio:
        told["prepared_prompt"] = dict(job.text.items())
    elif job.text.video != job.prompt:
        told["prepared_prompt"] = job.text.video
    if job.shape.first is not None:
        told["first_frame"]["name"] = job.shape.first.path.name
    return {**told, **origin.details, "run": dict(run)}


def put_clip(folder: Path, name: str, clip: Clip, told: Mapping[str, Any]) -> Path:
    """The path of a clip, after it and its sidecar have been written.

    Whoever finds a sidecar finds its clip whole: the old sidecar goes first, the new one comes last.
    """
    media, sidecar = media_path(folder, name), sidecar_path(folder, name)
    sidecar.unlink(missing_ok=True)
    write_clip(media, clip, 1 if clip.video is None else viewing_scale(*clip.video.shape[1:3]))
    atomic_write_json(sidecar, {**told, "media_sha256": sha256_of(media)})
    return media


def is_whole(folder: Path, name: str, told: Mapping[str, Any]) -> bool:
    """Whether a clip is the file that its sidecar, ``told``, was written for."""
    media = media_path(folder, name)
    return media.is_file() and sha256_of(media) == told.get("media_sha256")


def finished(folder: Path, jobs: Sequence[Job], origin: Origin, overwrite: bool) -> set[str]:
    """Ids of the jobs whose clips lie whole in the folder, made in just this way.

    UserError when a clip of the same name was made in another way, unless ``overwrite``.
    """
    done = set()
    for job in jobs:
        told = read_sidecar(folder, job.id)
        if told is None:
            continue
        wanted = _identity(job, origin)
        other = [key for key, value in wanted.items() if not _agrees(told.get(key), value)]
        if not other:
            if is_whole(folder, job.id, told):
                done.add(job.id)
        elif not overwrite:
            key = other[0]
            raise UserError(
                f"this clip was made with another {key.replace('_', ' ')}: {_short(told.get(key), wanted[key])}, "
                f"now it would be {_short(wanted[key], told.get(key))}",
                str(sidecar_path(folder, job.id)),
                "give another --out, or --overwrite to make the clips again",
            )
    return done


def _agrees(told: object, wanted: object) -> bool:
    """Whether what was told is what is wanted; more may be told."""
    if isinstance(told, Mapping) and isinstance(wanted, Mapping):
        return all(key in told and told[key] == value for key, value in wanted.items())
    return told == wanted


def sweep(folder: Path, jobs: Sequence[Job]) -> None:
    """Removes what a killed run left of these clips under temporary names."""
    for job in jobs:
        for left in folder.glob(f".{job.id}-????????.*"):
            left.unlink()


def _short(value: object, other: object) -> str:
    """A value in a few words; of a mapping, what the other has not got."""
    if isinstance(value, Mapping):
        held = other if isinstance(other, Mapping) else {}
        parts = {key: one for key, one in value.items() if key != "name" and held.get(key) != one}
        return ", ".join([*([value["name"]] if "name" in value else []), *(f"{k} {v!s:.16}" for k, v in parts.items())])
    text = "none" if value is None else str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."


def groups(jobs: Sequence[Job], size: int, done: set[str]) -> list[Sequence[Job]]:
    """Batches of fixed membership, of clips of one size and all with or all without a first frame; those that lack a
    clip. A batch that was interrupted is made as a whole again: the rounding of a clip's arithmetic may depend on its
    neighbours, and a continued run gives the same files."""
    alike: dict[tuple[Size, bool], list[Job]] = {}
    for job in jobs:
        alike.setdefault((job.shape.size_px, job.shape.first is not None), []).append(job)
    batches = [some[start : start + size] for some in alike.values() for start in range(0, len(some), size)]
    return [batch for batch in batches if any(job.id not in done for job in batch)]
