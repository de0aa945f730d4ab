"""A complete folder of released weights, tiny: official names and file formats, random weights; and ways to spoil it.

Names and shapes of the joint model are those of ``checkpoint_layouts.json`` with narrower towers and fewer blocks:
nothing here asks ovikit what the files are like.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from official_audio import TINY_AUDIO_OPTIONS, write_audio_weights
from official_text import TINY_TEXT_OPTIONS, write_text_weights
from official_video import TINY_VIDEO_OPTIONS, write_video_weights
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "parity" / "golden"
REFERENCE = Path(__file__).parents[1] / "recipes" / "reference"
VARIANTS = {
    "720x720_5s": ("Ovi/model.safetensors", "ovi-720x720-5s.yaml"),
    "960x960_5s": ("Ovi/model_960x960.safetensors", "ovi-960x960-5s.yaml"),
    "960x960_10s": ("Ovi/model_960x960_10s.safetensors", "ovi-960x960-10s.yaml"),
    "720x720_5s_fp8": ("Ovi/model_fp8_e4m3fn.safetensors", "ovi-720x720-5s-fp8.yaml"),
}
VAE = "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
TEXT = "Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth"
TOKENIZER = "Wan2.2-TI2V-5B/google/umt5-xxl"
AUDIO_VAE = "MMAudio/ext_weights/v1-16.pth"
VOCODER = "MMAudio/ext_weights/best_netG.pt"

DEPTH = 3
TINY_TOWER_OPTIONS: dict[str, Any] = {
    "width": 48,
    "feed_forward_width": 96,
    "heads": 2,
    "depth": DEPTH,
    "text_length": 32,
    "frequency_width": 32,
}
"""Options of ``wan-tower`` that describe what ``write_joint_weights`` writes."""
_WIDTHS = {3072: 48, 14336: 96, 18432: 6 * 48, 256: 32, 4096: TINY_TEXT_OPTIONS["width"], 8192: 256}


def tiny_recipe(variant: str = "720x720_5s", **changes: str) -> str:
    """A recipe for ``make_folder``'s files: the released one of a variant, at tiny sizes and in float32.

    changes: YAML of whole top-level sections to add, as ``runtime="{memory: {plan: full}}"``
    """
    frames, side = (17, 96) if variant == "960x960_10s" else (9, 96 if "960" in variant else 64)
    tower = _flow({"type": "wan-tower", **TINY_TOWER_OPTIONS})
    lines = [
        "version: 1",
        f"extends: {REFERENCE / VARIANTS[variant][1]}",
        f"name: tiny-{variant}",
        f"clip: {{duration_s: {frames / 24}, height_px: {side}, width_px: {side}, area_px: {side * side}}}",
        "model:",
        f"  video: {tower}",
        f"  audio: {tower}",
        "  codecs:",
        f"    video: {_flow({'type': 'wan-vae', 'dtype': 'float32', **TINY_VIDEO_OPTIONS})}",
        f"    audio: {_flow({'type': 'mmaudio', 'steps': None, **TINY_AUDIO_OPTIONS})}",
        f"  conditioner: {_flow({'type': 'umt5', 'length': 32, **TINY_TEXT_OPTIONS})}",
        "  precision: {dtype: float32}",
        "sampling:",
        "  steps: 3",
        "  guidance: {skip_layers: [1]}",
        *(f"{name}: {text}" for name, text in changes.items()),
    ]
    return "\n".join(lines) + "\n"


def _flow(options: dict[str, Any]) -> str:
    """A YAML mapping on one line; JSON is YAML."""
    return json.dumps(options)


TINY_RECIPE = tiny_recipe()


def write_recipe(path: Path, variant: str = "720x720_5s", **changes: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tiny_recipe(variant, **changes), encoding="utf-8")
    return path


def make_folder(path: Path, variants: Sequence[str] = ("720x720_5s",), seed: int = 0) -> Path:
    """The folder, with every file that clips of these variants need. The same seed gives the same weights; those of
    fp8 are the rounded ones of 720x720_5s."""
    for variant in variants:
        like = "720x720_5s" if variant == "720x720_5s_fp8" else variant
        tensors = joint_tensors(seed + 10 * list(VARIANTS).index(like))
        write_joint_weights(path / VARIANTS[variant][0], in_float8(tensors) if variant.endswith("fp8") else tensors)
    (path / VAE).parent.mkdir(parents=True, exist_ok=True)
    write_video_weights(path / VAE, seed)
    write_text_weights(path / TEXT, path / TOKENIZER, seed)
    write_audio_weights(path / AUDIO_VAE, path / VOCODER, seed, "new")
    return path


def write_joint_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": "pt"})


def joint_shapes(depth: int = DEPTH) -> dict[str, tuple[int, ...]]:
    """Official names and tiny shapes of the joint model."""
    layout = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))["Ovi/model.safetensors"]
    return {
        name: tuple(int(_WIDTHS.get(size, size)) for size in shape)
        for name, shape in layout.items()
        if ".blocks." not in name or int(name.split(".")[2]) < depth
    }


def joint_tensors(seed: int = 0) -> dict[str, Tensor]:
    """What the tiny ``Ovi/model.safetensors`` holds, bfloat16 as released."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _drawn(name, shape, generator) for name, shape in joint_shapes().items()}


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if "norm" in name and name.endswith("weight"):
        value = 1 + 0.1 * noise
    elif name.endswith("bias"):
        value = 0.05 * noise
    elif "modulation" in name:
        value = noise / shape[-1] ** 0.5
    else:
        value = noise / torch.tensor(shape[1:]).prod() ** 0.5
    return value.to(torch.bfloat16)


def in_float8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ``model_fp8_e4m3fn.safetensors``: every tensor but norms and biases rounded to float8, without a scale. So its
    author describes it; the file's size, a byte for each weight, agrees."""
    return {
        name: one if "norm" in name or "bias" in name else one.to(torch.float8_e4m3fn) for name, one in tensors.items()
    }


def in_scaled_float8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As other people's float8 files: matrices of blocks only, each with a float32 scale beside it."""
    made = dict(tensors)
    for name, one in tensors.items():
        if ".blocks." in name and one.dim() == 2:
            scale = one.float().abs().max() / 448
            made |= {name: (one.float() / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale}
    return made


# Ways to spoil a file


def truncate(file: Path, share: float = 0.6) -> None:
    """Cuts the file's end off, as an interrupted download does."""
    os.truncate(file, int(file.stat().st_size * share))


def drop_tensor(file: Path, name: str | None = None) -> str:
    """Takes one tensor (the last) out of a file; its name."""
    return _change(file, lambda tensors, found: tensors.pop(found), name)


def misshape(file: Path, name: str | None = None) -> str:
    """Gives one tensor (the last of several dimensions) a row too many; its name."""

    def change(tensors: dict[str, Tensor], found: str) -> None:
        one = tensors[found]
        tensors[found] = torch.cat([one.float(), one[:1].float()]).to(one.dtype)

    return _change(file, change, name, least=2)


def add_key(file: Path, name: str = "somebody.elses.weight") -> str:
    """Puts a tensor into a file that does not belong there; its name."""

    def change(tensors: dict[str, Tensor], _: str) -> None:
        tensors[name] = torch.zeros(3)

    _change(file, change, None)
    return name


def _change(file: Path, change: Callable[[dict[str, Tensor], str], object], name: str | None, least: int = 0) -> str:
    nested: dict[str, Any] | None = None
    if file.suffix == ".safetensors":
        tensors = {key: one.clone() for key, one in load_file(file).items()}
    else:
        tensors = torch.load(file, weights_only=True)
        if "generator" in tensors:
            nested, tensors = tensors, tensors["generator"]
    chosen = name or [key for key, one in tensors.items() if one.dim() >= least][-1]
    change(tensors, chosen)
    if file.suffix == ".safetensors":
        save_file(tensors, file, {"format": "pt"})
    else:
        torch.save(nested or tensors, file)
    return chosen


class _RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.mark}'",)


def evil_pickle(file: Path) -> Path:
    """Puts a pickle in the file's place that creates another file if it is let; that file."""
    mark = file.with_name("it-ran")
    with file.open("wb") as handle:
        pickle.dump(_RunsCode(mark), handle, protocol=2)
    return mark


def lfs_pointer(file: Path) -> None:
    """Puts a git-lfs pointer in the file's place, as a clone without git-lfs has it."""
    size = file.stat().st_size
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {size}\n")
