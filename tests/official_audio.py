"""The audio files of a weights folder in the official layout, at tiny widths with random weights.

Names and shapes are the official ones of ``checkpoint_layouts.json``, with narrower channels: nothing here asks ovikit
what the files are like. Tests put them together with the other official files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "parity" / "golden"
TINY_AUDIO_OPTIONS: dict[str, Any] = {"hidden_channels": 8, "vocoder_channels": 64}
"""Options of ``mmaudio`` that describe what ``write_audio_weights`` writes."""

WeightNorm = Literal["old", "new"]
_VAE_WIDTHS = {384: 8, 768: 16, 1536: 32, 4608: 96}
_VOCODER_WIDTHS = {1536: 64, 768: 32, 384: 16, 192: 8, 96: 4, 48: 2, 24: 1}
_NEW_LENGTH, _NEW_DIRECTION = ".parametrizations.weight.original0", ".parametrizations.weight.original1"


def _tiny_shapes(file: str, widths: dict[int, int]) -> dict[str, list[int]]:
    layout = json.loads((GOLDEN / "checkpoint_layouts.json").read_text(encoding="utf-8"))[file]
    return {name: [widths.get(size, size) for size in shape] for name, shape in layout.items()}


def vae_tensors(seed: int = 0) -> dict[str, Tensor]:
    """What the tiny ``v1-16.pth`` holds."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        name: torch.randn(shape, generator=generator) for name, shape in _tiny_shapes("v1-16.pth", _VAE_WIDTHS).items()
    }
    for side in ("encoder", "decoder"):
        made[f"{side}.learnable_gain"] *= 0.1
    made["data_mean"] = 0.2 * made["data_mean"] - 1.5
    made["data_std"] = 0.1 * made["data_std"] + 1.0
    return made


def vocoder_tensors(seed: int = 0, weight_norm: WeightNorm = "old") -> dict[str, Tensor]:
    """What the tiny ``best_netG.pt`` holds under ``generator``."""
    generator = torch.Generator().manual_seed(seed + 1)
    low_pass = load_file(GOLDEN / "bigvgan.safetensors")["weights.activation_post.upsample.filter"]
    made: dict[str, Tensor] = {}
    for name, shape in _tiny_shapes("best_netG.pt:generator", _VOCODER_WIDTHS).items():
        drawn = torch.randn(shape, generator=generator)
        if name.endswith(".filter"):
            drawn = low_pass.clone()
        elif name.endswith(_NEW_LENGTH):
            drawn = 0.7 + 0.1 * drawn
        elif not name.endswith(_NEW_DIRECTION):
            drawn *= 0.1
        if weight_norm == "old":
            name = name.replace(_NEW_LENGTH, ".weight_g").replace(_NEW_DIRECTION, ".weight_v")
        made[name] = drawn
    return made


def write_audio_weights(vae_path: Path, vocoder_path: Path, seed: int = 0, weight_norm: WeightNorm = "old") -> None:
    """Writes ``v1-16.pth`` and ``best_netG.pt``, whatever they are called, and the folders that they lie in.

    weight_norm: how the vocoder's is spelled, as an older or as a newer PyTorch saves it
    """
    for path in (vae_path, vocoder_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(vae_tensors(seed), vae_path)
    torch.save({"generator": vocoder_tensors(seed, weight_norm)}, vocoder_path)
