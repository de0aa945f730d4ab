"""How a command ended, and what lies in a folder of clips: shared by the tests that drive the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovikit.files import sha256_of
from ovikit.generate.media import read_clip


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
