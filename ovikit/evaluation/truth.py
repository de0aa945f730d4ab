"""Ground-truth clips through the same codecs and the same files as generated ones: what no model can exceed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ovikit.evaluation.protocols import PromptSet
from ovikit.files import atomic_write_text, sha256_of
from ovikit.generate.batch import through_codecs
from ovikit.generate.jobs import media_path, read_sidecar, sidecar_path
from ovikit.generate.media import viewing_scale, write_clip
from ovikit.networks.protocols import Codec
from ovikit.types import AV, Clip, ClipSpec

_MEDIA_VERSION = 1
"""Changes when ``write_clip`` would write the same clip differently."""


def write_truth(
    prompts: PromptSet,
    codecs: AV[Codec],
    form: ClipSpec,
    folder: Path,
    told: Callable[[int, int], None] | None = None,
) -> list[int]:
    """Writes the ground-truth clip of every prompt that has one, those that lie there already excepted; the indices
    of these prompts. ``told(done, total)`` after each."""
    fingerprints = {modality: codec.fingerprint() for modality, codec in codecs.items()}
    there = []
    for i in range(len(prompts)):
        item, clip = prompts[i], prompts.reference(i)
        if clip is not None:
            there.append(i)
            key = _key(item.id, clip, fingerprints, form)
            if not _is_whole(folder, item.id, key):
                _write_one(folder, item.id, item.prompt, clip, codecs, form, key)
        if told is not None:
            told(i + 1, len(prompts))
    return there


@torch.no_grad()
def _write_one(
    folder: Path, name: str, prompt: str, clip: Clip, codecs: AV[Codec], form: ClipSpec, key: str
) -> None:  # fmt: skip
    decoded = through_codecs(clip, codecs, form)
    sidecar_path(folder, name).unlink(missing_ok=True)
    path = media_path(folder, name)
    write_clip(path, decoded, 1 if decoded.video is None else viewing_scale(*decoded.video.shape[1:3]))
    sidecar: dict[str, Any] = {
        "id": name,
        "prompt": prompt,
        "truth": dict(clip.truth),
        "key": key,
        "media_sha256": sha256_of(path),
    }
    atomic_write_text(sidecar_path(folder, name), json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n")


def _is_whole(folder: Path, name: str, key: str) -> bool:
    told, media = read_sidecar(folder, name), media_path(folder, name)
    if told is None or told.get("key") != key or not media.is_file():
        return False
    return sha256_of(media) == told.get("media_sha256")


def _key(name: str, clip: Clip, fingerprints: Mapping[str, str], form: ClipSpec) -> str:
    """Changes with the clip, its codecs and its form."""
    state = hashlib.sha256(json.dumps([name, fingerprints, repr(form), _MEDIA_VERSION], sort_keys=True).encode())
    for samples in (clip.video, clip.audio):
        state.update(b"-" if samples is None else samples.contiguous().numpy().tobytes())
    return state.hexdigest()
