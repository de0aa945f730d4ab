"""Replays of ``rope_affinity``: Figure 2 of the paper.

Shape legend: a audio tokens, v video steps, p rotated channel pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.types import TokenGrid
from ovikit_ovi.parity.golden import SECONDS_PER_STEP, Golden
from ovikit_ovi.positions import IndexPositions, axis_channels

RELEASED_SCALE, RELEASED_HEAD_WIDTH = 0.19676, 128
CASES = ("unscaled", "scaled")


def affinity(positions: IndexPositions, audio: int, video: int, head_width: int) -> Tensor:
    """(a, v) mean over the time channels' pairs of cos(angle of audio token - angle of video step)."""
    pairs = axis_channels(head_width)[0] // 2
    angles = [
        positions.angles(TokenGrid.uniform(modality, (steps, 1, 1), SECONDS_PER_STEP), head_width, "fusion")[:, :pairs]
        for modality, steps in (("audio", audio), ("video", video))
    ]
    return (angles[0][:, None] - angles[1][None]).cos().mean(-1)


def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of each affinity map in the file."""
    head_width = int(golden.metadata.get("head_dim", RELEASED_HEAD_WIDTH))
    for name, recorded in sorted(golden.tensors.items()):
        case = name.removeprefix("affinity.")
        if case not in CASES or recorded.ndim != 2:
            raise UserError(f"{name!r} is no affinity map", str(golden.path), f"there are: {', '.join(CASES)}")
        positions = IndexPositions(1.0 if case == "unscaled" else float(golden.metadata.get("scale", RELEASED_SCALE)))
        yield (
            case,
            "affinity",
            affinity(positions, recorded.shape[0], recorded.shape[1], head_width).to(dtype),
            recorded,
        )
