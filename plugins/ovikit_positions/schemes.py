"""The published positional schemes beside Ovi's: each says where a token lies in time, rows and columns.

Shape legend: n tokens, d head width.

Angles follow from the places as in Wan (``ovikit.networks.axes``), so two schemes differ in what they count and in
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from ovikit.networks.axes import axis_angles
from ovikit.types import TokenGrid

Use = Literal["self", "fusion"]


@dataclass(frozen=True, slots=True)
class ScaledVideo:
    """The video's steps counted in audio tokens; audio counts its own (MOVA, arXiv 2602.08794).

    ratio:            audio tokens per video step
    first_step_shift: subtracted from every video step but the first, before it is multiplied
    """

    ratio: float
    first_step_shift: float = 0.0
    theta: float = 10000.0

    def angles(self, grid: TokenGrid, head_width: int, use: Use) -> Float64[Tensor, "n {head_width}//2"]:
        """By how much each channel pair of each token turns; the same for both uses."""
        places = grid.index.to(torch.float64)
        if grid.modality == "video":
            places[:, 0] = (places[:, 0] - self.first_step_shift * (places[:, 0] > 0)) * self.ratio
        return axis_angles(places, head_width, self.theta)


@dataclass(frozen=True, slots=True)
class Seconds:
    """The midpoint of each token's interval, in physical time (LTX-2, arXiv 2601.03233).

    per_second: by what the seconds are multiplied
    """

    per_second: float = 6.0
    theta: float = 10000.0

    def angles(self, grid: TokenGrid, head_width: int, use: Use) -> Float64[Tensor, "n {head_width}//2"]:
        """By how much each channel pair of each token turns; in the fusion only those of time do."""
        places = grid.index.to(torch.float64)
        places[:, 0] = grid.seconds.mean(dim=1) * self.per_second
        if use == "fusion":
            places[:, 1:] = 0.0
        return axis_angles(places, head_width, self.theta)


@dataclass(frozen=True, slots=True)
class Interleaved:
    """One time axis, and audio on a row and a column that no picture has: no two tokens share a place (JavisDiT++,
    arXiv 2602.19163).

    ratio:  by what the audio index is multiplied
    offset: the audio's row and column; negative, since a picture's are counted from 0 on
    """

    ratio: float
    offset: int = -1
    theta: float = 10000.0

    def places(self, grid: TokenGrid) -> Float64[Tensor, "n 3"]:
        """Time, row and column of each token."""
        places = grid.index.to(torch.float64)
        if grid.modality == "audio":
            places[:, 0] *= self.ratio
            places[:, 1:] = self.offset
        return places

    def angles(self, grid: TokenGrid, head_width: int, use: Use) -> Float64[Tensor, "n {head_width}//2"]:
        """By how much each channel pair of each token turns; the same for both uses."""
        return axis_angles(self.places(grid), head_width, self.theta)


@dataclass(frozen=True, slots=True)
class SelfOnly:
    """Each modality counts its own tokens, and nothing turns in the fusion: the control of rotating there at all."""

    theta: float = 10000.0

    def angles(self, grid: TokenGrid, head_width: int, use: Use) -> Float64[Tensor, "n {head_width}//2"]:
        """By how much each channel pair of each token turns."""
        places = grid.index.to(torch.float64)
        return axis_angles(torch.zeros_like(places) if use == "fusion" else places, head_width, self.theta)
