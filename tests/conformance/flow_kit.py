"""A small RAFT under the published names, weights that are numbers of their place, and pictures for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ovikit.types import Clip
from ovikit_versebench.seeing import flow
from ovikit_versebench.seeing.raft import Raft, RaftSize

NAME = "raft-things.pth"
SMALL = RaftSize((6, 8, 10), 12, 8, 8, (12, 10), (8, 6), 10, 12)
small_raft = partial(Raft, SMALL)


def numbers(count: int, seed: int) -> Tensor:
    """(count,) in [-1, 1), float32: whole-number arithmetic alone, the same on every machine and with every version."""
    x = (torch.arange(count) + 1_000_003 * (seed + 1)) & 0xFFFFFFFF
    for factor in (0x45D9F3B, 0x119DE1F):
        x = ((x ^ (x >> 16)) * factor) & 0xFFFFFFFF
    return ((x ^ (x >> 16)).double() / 2**31 - 1).float()


def filled(network: nn.Module) -> nn.Module:
    """The network, for use alone, with weights that are ``numbers`` of the rank of their names, and small steps."""
    for rank, (name, value) in enumerate(sorted(network.state_dict().items())):
        if not value.is_floating_point():
            continue
        drawn = numbers(value.numel(), rank).view(value.shape)
        if value.dim() == 4:
            drawn = drawn * (6 / value[0].numel()) ** 0.5 * (0.1 if name.endswith("flow_head.conv2.weight") else 1)
        elif name.endswith(("running_var", "weight")):
            drawn = 1 + 0.5 * drawn
        else:
            drawn = 0.1 * drawn
        value.copy_(drawn)
    return network.eval()


def write_weights(folder: Path, network: nn.Module | None = None) -> Path:
    """As the published file, which was written by nn.DataParallel."""
    folder.mkdir(parents=True, exist_ok=True)
    state = (filled(small_raft()) if network is None else network).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / NAME)
    return folder


def use_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "Raft", small_raft)


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, height, width) of soft blobs."""
    coarse = numbers(count * 3 * (height // 8) * (width // 8), seed).view(count, 3, height // 8, width // 8)
    soft = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (127.5 * (soft + 1)).round().byte()


def film(count: int, height: int, width: int, rate_hz: float = 8.0, seed: int = 0) -> Clip:
    frames = pictures(count, height, width, seed).permute(0, 2, 3, 1).contiguous()
    return Clip("film", "", frames, None, rate_hz, 0)
