"""Wan's rotations over (t, y, x), with the audio's time axis counted in its own tokens or in video steps.

Shape legend: n tokens, d head width.

Audio turns the time channels only; its other pairs have angle zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from ovikit.networks.axes import axis_angles
from ovikit.types import TokenGrid


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
        # one row and one column: the audio's index is zero there, and so are its angles
        places = grid.index.to(torch.float64)
        places[:, 0] *= self.audio_scale if grid.modality == "audio" else 1.0
        return axis_angles(places, head_width, self.theta)
