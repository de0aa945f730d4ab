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
from ovikit.types import Clip

SIDECAR_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to make.

    id:     name of its files
    item:   id of its prompt
    seed:   of its noise
    """

    id: str
    item: str
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Origin:
    """What all clips of a run have in common.

    digest:  of the recipe
    weights: sha256 of the weights file
    """

    recipe: str
    digest: str
    weights: str
    details: Mapping[str, Any]


def plan(items: Sequence[PromptItem], seed: int, count: int = 1) -> list[Job]:
    """``count`` clips of each prompt, the i-th of all with the noise of seed + i. Further takes of a prompt are
    named ID-1, ID-2, ..."""
    for item in items:
        if not SAFE_ID.fullmatch(item.id):
            raise UserError(f"the id '{item.id}' cannot name a file", hint=ID_HINT)
    takes = [(item, take) for item in items for take in range(count)]
    jobs = [
        Job(item.id if take == 0 else f"{item.id}-{take}", item.id, item.prompt, seed + i)
        for i, (item, take) in enumerate(takes)
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
        "recipe": {"name": origin.recipe, "digest": origin.digest},
        "weights_sha256": origin.weights,
    }


def sidecar_of(job: Job, origin: Origin) -> dict[str, Any]:
    """What is told of how a clip was made."""
    return {"format": SIDECAR_FORMAT, **_identity(job, origin), "item": job.item, **origin.details}


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
        other = [key for key, value in wanted.items() if told.get(key) != value]
        if not other:
            if is_whole(folder, job.id, told):
                done.add(job.id)
        elif not overwrite:
            key = other[0]
            raise UserError(
                f"this clip was made with another {key.replace('_', ' ')}: {_short(told.get(key))}, "
                f"now it would be {_short(wanted[key])}",
                str(sidecar_path(folder, job.id)),
                "give another --out, or --overwrite to make the clips again",
            )
    return done


def sweep(folder: Path, jobs: Sequence[Job]) -> None:
    """Removes what a killed run left of these clips under temporary names."""
    for job in jobs:
        for left in folder.glob(f".{job.id}-????????.*"):
            left.unlink()


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{value.get('name')} {str(value.get('digest'))[:16]}"
    text = str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."


def groups(jobs: Sequence[Job], size: int, done: set[str]) -> list[Sequence[Job]]:
    """Batches of fixed membership, those that lack a clip. A batch that was interrupted is made as a whole again:
    the rounding of a clip's arithmetic may depend on its neighbours, and a continued run gives the same files."""
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return [batch for batch in batches if any(job.id not in done for job in batch)]
