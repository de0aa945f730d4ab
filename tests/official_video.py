"""The video autoencoder's file of a weights folder in the official layout, at tiny widths with random weights.

Names and shapes are the official ones of ``checkpoint_layouts.json``, with narrower channels: nothing here asks ovikit
what the file is like. Tests put it together with the other official files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.files import atomic_path

LAYOUTS = Path(__file__).parent / "parity" / "golden" / "checkpoint_layouts.json"
TINY_VIDEO_OPTIONS: dict[str, Any] = {"encoder_width": 4, "decoder_width": 8}
"""Options of ``wan-vae`` that describe what ``write_video_weights`` writes."""

_WIDTHS = {160: 4, 320: 8, 640: 16, 1920: 48, 256: 8, 512: 16, 1024: 32, 2048: 64, 3072: 96}
"""Tiny widths by the official ones: those of the encoder, then those of the decoder."""


def official_shapes() -> dict[str, tuple[int, ...]]:
    """Every name and shape of ``Wan2.2_VAE.pth``."""
    layout = json.loads(LAYOUTS.read_text(encoding="utf-8"))["Wan2.2_VAE.pth"]
    return {name: tuple(shape) for name, shape in layout.items()}


def video_tensors(seed: int = 0) -> dict[str, Tensor]:
    """What the tiny ``Wan2.2_VAE.pth`` holds."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name, shape in official_shapes().items():
        drawn = torch.randn([_WIDTHS.get(size, size) for size in shape], generator=generator)
        if name.endswith(".gamma"):
            drawn = 1 + 0.1 * drawn
        elif name.endswith(".bias"):
            drawn = 0.1 * drawn
        else:
            drawn = drawn / drawn[0].numel() ** 0.5
        made[name] = drawn
    return made


def write_video_weights(path: Path, seed: int = 0) -> None:
    """Writes a tiny ``Wan2.2_VAE.pth``: random weights, the same for the same seed."""
    with atomic_path(path) as temporary:
        torch.save(video_tensors(seed), temporary)
