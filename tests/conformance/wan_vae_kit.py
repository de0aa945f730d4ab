"""What the tests of the ``wan-vae`` codec share: tiny codecs and random things to put in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from official_video import TINY_VIDEO_OPTIONS
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.types import ClipSpec
from ovikit_ovi.video.codec import WanVae
from ovikit_ovi.video.component import COMPONENT, LATENT_MEAN, LATENT_STD, TIME_HALVED, WIDTH_FACTORS, WanVaeConfig
from ovikit_ovi.video.weights import Architecture

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "wan_vae.safetensors"
FULL = Architecture(160, 256, WIDTH_FACTORS, TIME_HALVED, 2, LATENT_MEAN, LATENT_STD)
"""The released sizes."""


def clip(frames: int = 9, height: int = 32, width: int = 48) -> ClipSpec:
    return ClipSpec(frames / 24, height, width, 24.0, 16000)


def build(folder: Path | None, form: ClipSpec, **options: Any) -> WanVae:
    config = WanVaeConfig(**{**TINY_VIDEO_OPTIONS, **options})
    return COMPONENT.build(config, clip=form, assets=Assets(folder))


def loaded(folder: Path, form: ClipSpec | None = None, **options: Any) -> WanVae:
    codec = build(folder, form or clip(), **options)
    codec.load("cpu")
    return codec


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return random(*shape, seed=seed).clamp(-1, 1)


def apart(ours: Tensor, other: Tensor) -> float:
    """max |a - b| / max |b|."""
    return float((ours - other).abs().max() / other.abs().max())
