"""Tiny ``mmaudio`` codecs, their files and what goes through them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from official_audio import TINY_AUDIO_OPTIONS, WeightNorm, write_audio_weights
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.types import ClipSpec
from ovikit_ovi.audio.codec import MMAudioCodec
from ovikit_ovi.audio.component import COMPONENT, VAE_FILE, VOCODER_FILE, MMAudioConfig

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
CLIP = ClipSpec(duration_s=0.5, height_px=32, width_px=32, frame_rate_hz=24.0, sample_rate_hz=16000)
FIVE, TEN = (ClipSpec(frames / 24, 32, 32, 24.0, 16000) for frames in (121, 241))


def codec_of(root: Path | None, clip: ClipSpec = CLIP, **options: Any) -> MMAudioCodec:
    config = MMAudioConfig(**{**TINY_AUDIO_OPTIONS, **options})
    return COMPONENT.build(config, clip=clip, assets=Assets(root))


def loaded(root: Path, **options: Any) -> MMAudioCodec:
    made = codec_of(root, **options)
    made.load("cpu")
    return made


def folder(path: Path, seed: int = 0, weight_norm: WeightNorm = "old") -> Path:
    write_audio_weights(path / VAE_FILE, path / VOCODER_FILE, seed, weight_norm)
    return path


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Rewrites a file with ``change`` made to its tensors."""

    def rewrite(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content.get("generator", content))
        torch.save(content, path)

    return rewrite


def latents(batch: int, steps: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 20, steps, generator=torch.Generator().manual_seed(seed))


def waves(batch: int, samples: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))
