"""Ground-truth clips through the same codecs and the same files as generated ones: what no model can exceed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch

from ovikit.evaluation.protocols import PromptItem, PromptSet
from ovikit.generate.batch import through_codecs
from ovikit.generate.jobs import is_whole, put_clip, read_sidecar
from ovikit.networks.loaded import loaded
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
    there = []
    with ExitStack() as ready:
        write = _Writer(codecs, form, folder, ready)
        for i in range(len(prompts)):
            item, clip = prompts[i], prompts.reference(i)
            if clip is not None:
                there.append(i)
                write(item, clip)
            if told is not None:
                told(i + 1, len(prompts))
    return there


class _Writer:
    """Writes ground-truth clips that are not there yet. The codecs' weights are read with the first of them, and kept
    while ``ready`` is open."""

    def __init__(self, codecs: AV[Codec], form: ClipSpec, folder: Path, ready: ExitStack) -> None:
        self._codecs, self._form, self._folder, self._ready = codecs, form, folder, ready
        self._loaded = False

    def __call__(self, item: PromptItem, clip: Clip) -> None:
        key = _key(item.id, clip, self._fingerprints, self._form)
        if _is_whole(self._folder, item.id, key):
            return
        if not self._loaded:
            self._ready.enter_context(loaded(*self._codecs.values()))
            self._loaded = True
        with torch.no_grad():
            decoded = through_codecs(clip, self._codecs, self._form)
        sidecar = {"id": item.id, "prompt": item.prompt, "truth": dict(clip.truth), "key": key}
        put_clip(self._folder, item.id, decoded, sidecar)

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {modality: codec.fingerprint() for modality, codec in self._codecs.items()}


def _is_whole(folder: Path, name: str, key: str) -> bool:
    told = read_sidecar(folder, name)
    return told is not None and told.get("key") == key and is_whole(folder, name, told)


def _key(name: str, clip: Clip, fingerprints: Mapping[str, str], form: ClipSpec) -> str:
    """Changes with the clip, its codecs and its form."""
    state = hashlib.sha256(json.dumps([name, fingerprints, repr(form), _MEDIA_VERSION], sort_keys=True).encode())
    for samples in (clip.video, clip.audio):
        state.update(b"-" if samples is None else samples.contiguous().numpy().tobytes())
    return state.hexdigest()
