"""How a command ended, what lies in a folder of clips, and clips to train on: shared by several tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovikit.files import sha256_of
from ovikit.generate.media import read_clip, write_clip
from ovikit.types import Clip


@dataclass
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def clips(folder: Path) -> dict[str, str]:
    """Digests of the clips of a folder by name."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.mp4"))}


def only(folder: Path) -> Path:
    (found,) = folder.glob("*.mp4")
    return found


def told(clip: Path) -> dict[str, Any]:
    return json.loads(clip.with_suffix(".json").read_text(encoding="utf-8"))


def pixels(clip: Path) -> torch.Tensor:
    size = told(clip)["size_px"]
    video = read_clip(clip, size_px=(size[0], size[1])).video
    assert video is not None
    return video


def off(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean difference of pixels, of 255."""
    return float((one.float() - other.float()).abs().mean())


SAME, OTHER = 8, 25
"""Of 255: what H.264 makes of the noise that a random autoencoder decodes, and what another picture is off by."""


def write_clips(folder: Path) -> Path:
    """A folder with three clips of noise and a tone, in files with captions, as short as tiny official models want."""
    for i in range(3):
        frames = np.random.default_rng(i).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
        tone = 0.5 * torch.sin(torch.arange(6000) * (0.1 + 0.1 * i))
        write_clip(folder / f"clip-{i}.mp4", Clip(f"clip-{i}", "", torch.from_numpy(frames), tone, 24.0, 16000))
        (folder / f"clip-{i}.txt").write_text(f"noise, <S>tone {i}<E> <AUDCAP>a tone<ENDAUDCAP>")
    return folder
