"""Folders of clips to a study: which pairs there are, under names that do not tell the model, and the checks."""

from __future__ import annotations

import hashlib
import random
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch

from ovikit.errors import UserError, listed
from ovikit.evaluation.folder import FolderPrompts
from ovikit.files import atomic_write_text, sha256_of
from ovikit.generate.jobs import media_path
from ovikit.generate.media import read_clip, write_clip
from ovikit.study.records import CLIPS, STUDY, Check, Pair, Shown, Study
from ovikit.types import Clip

SHIFT_S = 1.5
"""By how much the sound of a check is late: more than anybody takes for good."""
CHECKS: tuple[Check, ...] = ("muted", "shifted")


@dataclass(frozen=True, slots=True)
class Made:
    """A new study, and what was left out of it: why, by the clip's name."""

    study: Study
    folder: Path
    left_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Source:
    """The clips of a model by the name of their prompt."""

    model: str
    folder: Path
    prompts: Mapping[str, str]


def make(
    folder: Path,
    clips: Mapping[str, Path],
    *,
    name: str | None = None,
    prompt_set: str = "",
    most_prompts: int | None = None,
    per_rater: int | None = None,
    checks_per_rater: int = 2,
    seed: int = 0,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Writes a study of the clips that all folders have, whole or not at all.

    clips:        folder of each model
    most_prompts: as many of them, drawn by the seed; None: all
    per_rater:    pairs that a rater is shown; None: all
    UserError where the folder is taken, fewer than two models are given, or they have no prompt in common.
    """
    if folder.exists():
        raise UserError("there is something there already", str(folder), "name another folder, or remove it")
    if len(clips) < 2:
        raise UserError(
            "a study compares two folders of clips or more", hint="ovikit study new DIR --clips A --clips B"
        )
    sources = [_source(model, path) for model, path in clips.items()]
    shared = sorted(set.intersection(*(set(one.prompts) for one in sources)))
    left_out = {
        f"{one.model}/{prompt}": "another folder has no such clip"
        for one in sources for prompt in sorted(set(one.prompts) - set(shared))
    }  # fmt: skip
    drawn = random.Random(seed)
    chosen = sorted(drawn.sample(shared, min(most_prompts or len(shared), len(shared))))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        home, salt = Path(place) / "study", secrets.token_hex(16)
        (home / CLIPS).mkdir(parents=True)
        shown, broken = _copies(sources, chosen, home / CLIPS, salt, told)
        left_out |= broken
        usable = [prompt for prompt in chosen if all((one.model, prompt) in shown for one in sources)]
        if not usable:
            hint = None if not left_out else listed([f"{clip}: {why}" for clip, why in left_out.items()], 3)
            raise UserError("the folders have no clip in common that can be played", hint=hint)
        texts = {prompt: next((one.prompts[prompt] for one in sources if one.prompts[prompt]), "") for prompt in usable}
        pairs = [
            Pair(id=f"{k:05d}", prompt=prompt, text=texts[prompt], a=shown[a, prompt], b=shown[b, prompt])
            for k, (prompt, (a, b)) in enumerate(
                (prompt, two) for prompt in usable for two in combinations([one.model for one in sources], 2)
            )
        ]
        checks = _checks(sources, usable, texts, shown, home / CLIPS, salt, checks_per_rater, drawn)
        study = Study(
            name=name or folder.name, prompt_set=prompt_set, models=tuple(clips), seed=seed, salt=salt,
            per_rater=min(per_rater or len(pairs), len(pairs)), checks_per_rater=min(checks_per_rater, len(checks)),
            pairs=(*pairs, *checks),
        )  # fmt: skip
        atomic_write_text(home / STUDY, study.model_dump_json(indent=1) + "\n")
        home.rename(folder)
    return Made(study, folder, left_out)


def _source(model: str, folder: Path) -> _Source:
    if not folder.is_dir():
        raise UserError("there is no such folder of clips", str(folder))
    found = FolderPrompts(folder)
    return _Source(model, folder, {found[i].id: found[i].prompt for i in range(len(found))})


def _copies(
    sources: Sequence[_Source], prompts: Sequence[str], home: Path, salt: str, told: Callable[[int, int], None]
) -> tuple[dict[tuple[str, str], Shown], dict[str, str]]:
    """The clips that can be played, copied, and why the others cannot."""
    shown: dict[tuple[str, str], Shown] = {}
    broken: dict[str, str] = {}
    total = len(sources) * len(prompts)
    for done, (one, prompt) in enumerate(((one, prompt) for one in sources for prompt in prompts), start=1):
        path = media_path(one.folder, prompt)
        try:
            read_clip(path, need=("video",))
        except UserError as error:
            broken[f"{one.model}/{prompt}"] = error.what
        else:
            digest = sha256_of(path)
            file = _neutral(salt, one.model, prompt, digest)
            shutil.copyfile(path, home / file)
            shown[one.model, prompt] = Shown(model=one.model, sha256=digest, file=file)
        told(done, total)
    return shown, broken


def _neutral(salt: str, *parts: str) -> str:
    """A file name that tells nothing: without the salt, it cannot be had from the clip either."""
    return hashlib.sha256("\n".join((salt, *parts)).encode()).hexdigest()[:32] + ".mp4"


def _checks(
    sources: Sequence[_Source], prompts: Sequence[str], texts: Mapping[str, str],
    shown: Mapping[tuple[str, str], Shown], home: Path, salt: str, count: int, drawn: random.Random,
) -> list[Pair]:  # fmt: skip
    """Pairs of a clip with itself, spoiled, of clips whose sound is there to be missed."""
    found: list[Pair] = []
    places = [(one, prompt) for one in sources for prompt in prompts]
    drawn.shuffle(places)
    for one, prompt in places:
        if len(found) >= count:
            break
        clip = read_clip(media_path(one.folder, prompt), need=("video",))
        if clip.audio is None or float(clip.audio.abs().max()) < 0.02 or len(clip.audio) < 2 * clip.sample_rate_hz:
            continue
        kind = CHECKS[len(found) % len(CHECKS)]
        whole = shown[one.model, prompt]
        file = _neutral(salt, kind, whole.sha256)
        write_clip(home / file, _spoiled(clip, kind))
        spoiled = Shown(model=one.model, sha256=sha256_of(home / file), file=file)
        found.append(
            Pair(id=f"check-{len(found):03d}", prompt=prompt, text=texts[prompt], a=whole, b=spoiled, check=kind)
        )
    return found


def _spoiled(clip: Clip, kind: Check) -> Clip:
    assert clip.audio is not None
    if kind == "muted":
        return replace(clip, audio=torch.zeros_like(clip.audio))
    late = round(SHIFT_S * clip.sample_rate_hz)
    return replace(clip, audio=torch.cat((clip.audio.new_zeros(late), clip.audio[:-late])))
