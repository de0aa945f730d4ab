"""Ground-truth clips through the same codecs and the same files as generated ones: what no model can exceed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ovikit.evaluation.protocols import PromptSet
from ovikit.generate.batch import through_codecs
from ovikit.generate.jobs import is_whole, put_clip, read_sidecar
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
                with torch.no_grad():
                    decoded = through_codecs(clip, codecs, form)
                sidecar = {"id": item.id, "prompt": item.prompt, "truth": dict(clip.truth), "key": key}
                put_clip(folder, item.id, decoded, sidecar)
        if told is not None:
            told(i + 1, len(prompts))
    return there


def _is_whole(folder: Path, name: str, key: str) -> bool:
    told = read_sidecar(folder, name)
    return told is not None and told.get("key") == key and is_whole(folder, name, told)


def _key(name: str, clip: Clip, fingerprints: Mapping[str, str], form: ClipSpec) -> str:
    """Changes with the clip, its codecs and its form."""
    state = hashlib.sha256(json.dumps([name, fingerprints, repr(form), _MEDIA_VERSION], sort_keys=True).encode())
    for samples in (clip.video, clip.audio):
        state.update(b"-" if samples is None else samples.contiguous().numpy().tobytes())
    return state.hexdigest()
