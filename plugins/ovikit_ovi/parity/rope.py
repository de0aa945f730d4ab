"""Replays of ``rope_affinity``: Figure 2 of the paper."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.figures.affinity import affinity
from ovikit.types import AV, TokenGrid
from ovikit_ovi.parity.golden import SECONDS_PER_STEP, Golden
from ovikit_ovi.positions import IndexPositions

RELEASED_SCALE, RELEASED_HEAD_WIDTH = 0.19676, 128
CASES = ("unscaled", "scaled")


def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of each affinity map in the file."""
    head_width = int(golden.metadata.get("head_dim", RELEASED_HEAD_WIDTH))
    for name, recorded in sorted(golden.tensors.items()):
        case = name.removeprefix("affinity.")
        if case not in CASES or recorded.ndim != 2:
            raise UserError(f"{name!r} is no affinity map", str(golden.path), f"there are: {', '.join(CASES)}")
        positions = IndexPositions(1.0 if case == "unscaled" else float(golden.metadata.get("scale", RELEASED_SCALE)))
        audio, video = recorded.shape
        grids = AV(
            video=TokenGrid.uniform("video", (video, 1, 1), SECONDS_PER_STEP),
            audio=TokenGrid.uniform("audio", (audio, 1, 1), SECONDS_PER_STEP),
        )
        yield case, "affinity", affinity(positions, grids, head_width).to(dtype), recorded
