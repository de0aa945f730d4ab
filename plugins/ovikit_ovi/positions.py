"""Wan's rotations over (t, y, x), with the audio's time axis counted in its own tokens or in video steps.

Shape legend: n tokens, d head width.

A head's d / 2 channel pairs are shared out as (d - 4 (d // 6), 2 (d // 6), 2 (d // 6)) channels for time, rows and
columns. Audio turns the time channels only; its other pairs have angle zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from ovikit.types import TokenGrid


def axis_channels(head_width: int) -> tuple[int, int, int]:
    """How many of a head's channels turn with time, rows and columns: (44, 42, 42) of 128."""
    spatial = 2 * (head_width // 6)
    return head_width - 2 * spatial, spatial, spatial


def frequencies(channels: int, theta: float) -> Float64[Tensor, " {channels}//2"]:
    """theta ** (-2 i / channels), for each pair i of channels."""
    return theta ** -(torch.arange(0, channels, 2, dtype=torch.float64) / channels)


@dataclass(frozen=True, slots=True)
class IndexPositions:
    """Positions that count tokens; the audio's count is multiplied by ``audio_scale``.

    The released model uses 0.19676 = 31 / ((121 / 24) x 31.25): video latents over audio latents of a 5 s clip. Both
    the self-attention and the fusion turn by the scaled count. 1.0 is the unscaled control.
    """

    audio_scale: float
    theta: float = 10000.0

    def angles(
        self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]
    ) -> Float64[Tensor, "n {head_width}//2"]:
        """By how much each channel pair of each token turns; the same for both uses."""
        scale = self.audio_scale if grid.modality == "audio" else 1.0
        index = grid.index.to(torch.float64)
        time, rows, columns = axis_channels(head_width)
        parts = [(index[:, 0] * scale)[:, None] * frequencies(time, self.theta)]
        for axis, channels in ((1, rows), (2, columns)):
            # one row and one column: the audio's index is zero there, and so are its angles
            parts.append(index[:, axis, None] * frequencies(channels, self.theta))
        return torch.cat(parts, dim=1)
