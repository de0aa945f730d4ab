"""A small ImageBind under the published name, with parts of the modalities that are left out, and clips for it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovikit.types import Clip
from ovikit_versebench.binding import imagebind
from ovikit_versebench.binding.imagebind import ImageBind, ImageBindSize, TrunkSize

NAME = "imagebind_huge.pth"
SMALL = ImageBindSize(TrunkSize(16, 2, 2), TrunkSize(16, 2, 4), embedding=8, image_px=28)
small_imagebind = partial(ImageBind, SMALL)
OTHERS = (
    "modality_preprocessors.text.mask",
    "modality_preprocessors.thermal.rgbt_stem.proj.weight",
    "modality_preprocessors.imu.imu_stem.norm_layer.bias",
    "modality_trunks.depth.blocks.0.attn.bias_k",
    "modality_heads.text.proj.1.weight",
    "modality_postprocessors.depth.1.log_logit_scale",
)


def wave(shape: tuple[int, ...], start: float) -> Tensor:
    """Numbers in [-1, 1] that anybody can make again."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + 0.3 * torch.arange(math.prod(shape)) ** 0.5
    return torch.sin(steps + start).float().reshape(shape)


def waving_state(network: ImageBind) -> dict[str, Tensor]:
    """Weights that follow from the order of the names."""
    state: dict[str, Tensor] = {}
    for place, (name, value) in enumerate(sorted(network.state_dict().items())):
        inputs = value[0].numel() if value.dim() > 1 else 1
        found = wave(tuple(value.shape), float(place))
        if name.endswith("log_logit_scale"):
            found = torch.tensor(math.log(20.0))
        elif value.dim() == 1:
            found = 0.1 * found + float("norm" in name and name.endswith("weight"))
        elif not name.endswith(("pos_embed", "cls_token", "bias_k", "bias_v")):
            found = found * (3 / inputs) ** 0.5
        state[name] = found
    return state


def published_state() -> dict[str, Tensor]:
    """What a file of the small network holds."""
    return waving_state(small_imagebind()) | {name: torch.zeros(2, 3) for name in OTHERS}


def write_small_weights(folder: Path) -> Path:
    torch.save(published_state(), folder / NAME)
    return folder


def use_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagebind, "ImageBind", small_imagebind)


def film(seconds: float, rate_hz: float = 8.0, size: tuple[int, int] = (28, 28), seed: int = 0) -> Clip:
    """Noise to look at and to listen to."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (round(seconds * rate_hz), *size, 3), generator=generator, dtype=torch.uint8)
    sound = 0.1 * torch.randn(round(seconds * 16000), generator=generator)
    return Clip("film", "", video, sound, rate_hz, 16000)
