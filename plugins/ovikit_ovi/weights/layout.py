"""The folder of released weights as data: its files, what each is for, and which recipe needs it. Torch-free.

``released.json`` has the names and sizes of every tensor, of which ``{layers}`` and ``{0-2}`` stand for many. A size
such as "4096a" is 4096 as released but need not be that of other tensors with 4096.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from pathlib import Path

APACHE, NON_COMMERCIAL, UNSTATED = "Apache-2.0", "CC-BY-NC-4.0", "see its page"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file (or folder) of the released weights.

    name:     in the official layout, which is how recipes call it
    own:      in ovikit's own layout
    form:     key of ``released.json``; "tokenizer" for that folder
    purpose:  what it is for
    licence:  of what is in it
    source:   repository at Hugging Face, and what it is called there
    gb:       size of the released file in 10^9 bytes
    within:   key under which a pickled file nests its tensors
    fp8:      its large matrices are float8
    """

    name: str
    own: str
    form: str
    purpose: str
    licence: str
    source: tuple[str, str]
    gb: float
    within: str | None = None
    fp8: bool = False

    @property
    def is_joint_model(self) -> bool:
        """Whether it is the joint model of a variant; every variant needs the other files."""
        return self.form == "ovi"

    @property
    def told_source(self) -> str:
        """Where a user finds it."""
        return f"Hugging Face {self.source[0]}: {self.source[1]}"


_OVI, _WAN, _MMAUDIO = "chetwinlow1/Ovi", "Wan-AI/Wan2.2-TI2V-5B", "hkchengrex/MMAudio"


def _joint(file: str, own: str, told: str, gb: float = 23.32, fp8: bool = False, repository: str = _OVI) -> WeightsFile:
    purpose = f"joint network, {told}"
    return WeightsFile(f"Ovi/{file}", own, "ovi", purpose, UNSTATED if fp8 else APACHE, (repository, file), gb, fp8=fp8)


FILES = (
    _joint("model.safetensors", "ovi-720x720-5s.safetensors", "720 x 720, 5 s"),
    _joint("model_960x960.safetensors", "ovi-960x960-5s.safetensors", "960 x 960, 5 s"),
    _joint("model_960x960_10s.safetensors", "ovi-960x960-10s.safetensors", "960 x 960, 10 s"),
    _joint(
        "model_fp8_e4m3fn.safetensors", "ovi-720x720-5s-fp8.safetensors", "720 x 720, 5 s, in 8 bits",
        11.66, fp8=True, repository="rkfg/Ovi-fp8_quantized",
    ),
    WeightsFile(
        "Wan2.2-TI2V-5B/Wan2.2_VAE.pth", "wan-vae.safetensors", "wan-vae", "pictures to latents and back", APACHE,
        (_WAN, "Wan2.2_VAE.pth"), 2.82,
    ),
    WeightsFile(
        "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth", "umt5-xxl-encoder.safetensors", "umt5", "text encoder",
        APACHE, (_WAN, "models_t5_umt5-xxl-enc-bf16.pth"), 11.36,
    ),
    WeightsFile(
        "Wan2.2-TI2V-5B/google/umt5-xxl", "umt5-xxl-tokenizer", "tokenizer", "prompts to tokens", APACHE,
        (_WAN, "google/umt5-xxl/ (the folder)"), 0.02,
    ),
    WeightsFile(
        "MMAudio/ext_weights/v1-16.pth", "mmaudio-vae.safetensors", "mmaudio-vae", "sound to latents and back",
        NON_COMMERCIAL, (_MMAUDIO, "ext_weights/v1-16.pth"), 0.69,
    ),
    WeightsFile(
        "MMAudio/ext_weights/best_netG.pt", "bigvgan.safetensors", "bigvgan", "spectrogram to sound (BigVGAN)",
        NON_COMMERCIAL, (_MMAUDIO, "ext_weights/best_netG.pt"), 0.45, within="generator",
    ),
)  # fmt: skip
"""The official layout. MMAudio publishes the vocoder with its checkpoints, all of them under its non-commercial
licence."""

VARIANTS: Mapping[str, tuple[str, str]] = {
    "720x720_5s": ("Ovi/model.safetensors", "ovi-720x720-5s.yaml"),
    "960x960_5s": ("Ovi/model_960x960.safetensors", "ovi-960x960-5s.yaml"),
    "960x960_10s": ("Ovi/model_960x960_10s.safetensors", "ovi-960x960-10s.yaml"),
    "720x720_5s_fp8": ("Ovi/model_fp8_e4m3fn.safetensors", "ovi-720x720-5s-fp8.yaml"),
}
"""Variant: its joint model, and its recipe in ``recipes/reference``. Each needs every file that is no joint model."""

BY_NAME: Mapping[str, WeightsFile] = {file.name: file for file in FILES}
SHARED = tuple(file for file in FILES if not file.is_joint_model)
TOKENIZER_FILES = (("tokenizer.json",), ("spiece.model",))
"""What a tokenizer folder holds: the files of one of these."""


def needed_by(variant: str) -> tuple[WeightsFile, ...]:
    """Every file that a clip of this variant is made with."""
    return (BY_NAME[VARIANTS[variant][0]], *SHARED)


@dataclass(frozen=True, slots=True)
class Form:
    """The tensors of a kind of file as released, by templates of names with their sizes."""

    name: str
    layers: int
    templates: Mapping[str, tuple[int | str, ...]]

    def depth(self, names: Collection[str]) -> int:
        """Layers of a file with these tensors: as many as it has blocks."""
        found = {match.group(1) for name in names if (match := re.search(r"\bblocks\.(\d+)\.", name))}
        return (len(found) or self.layers) if self.layers else 0

    def tensors(self, layers: int) -> Mapping[str, tuple[int | str, ...]]:
        """Every name with its sizes as released, for a file of so many layers."""
        return _tensors(self.name, layers)

    def likeness(self, names: Collection[str]) -> float:
        """Which share of a file's names is of this form."""
        wanted = self.tensors(self.depth(names))
        return sum(name in wanted for name in names) / max(len(names), 1)


@lru_cache(maxsize=16)
def _tensors(form: str, layers: int) -> Mapping[str, tuple[int | str, ...]]:
    templates = forms()[form].templates
    return {name: sizes for template, sizes in templates.items() for name in _expanded(template, layers)}


def _expanded(template: str, layers: int) -> list[str]:
    """The names that a template stands for."""
    parts = re.split(r"\{(\w+(?:-\w+)?)\}", template)
    choices: list[tuple[str, ...]] = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            choices.append((part,))
        elif part == "layers":
            choices.append(tuple(str(n) for n in range(layers)))
        else:
            first, last = part.split("-")
            choices.append(tuple(str(n) for n in range(int(first), int(last) + 1)))
    return ["".join(chosen) for chosen in product(*choices)]


def released_size(size: int | str) -> int:
    """A size of ``released.json`` as a number."""
    return size if isinstance(size, int) else int(size[:-1])


@cache
def forms() -> Mapping[str, Form]:
    """Every kind of file by its name."""
    found = json.loads(Path(__file__).with_name("released.json").read_text(encoding="utf-8"))
    return {
        name: Form(name, one["layers"], {template: tuple(sizes) for template, sizes in one["tensors"].items()})
        for name, one in found.items()
    }


def in_one_spelling(name: str) -> str:
    """A vocoder's tensor in the newer spelling of weight norm, as ``released.json`` has it; any other name as it is."""
    if name.endswith(".weight_g"):
        return name.removesuffix("weight_g") + "parametrizations.weight.original0"
    if name.endswith(".weight_v"):
        return name.removesuffix("weight_v") + "parametrizations.weight.original1"
    return name
