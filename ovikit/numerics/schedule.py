"""Noise levels of a sampling run.

    shift(raw) = shift raw / (1 + (shift - 1) raw)      (1)   more steps near noise, for shift > 1

Grids of the released code (facts/ovi.md "Sampling"; both end with an exact 0):

    UniPC   shift(linspace(0.999, 0, N + 1)[:-1])               ``ShiftedSchedule(start=0.999)``
    DPM++   shift(linspace(1, 0, N + 1)[:-1])                   ``ShiftedSchedule()``
    Euler   shift(linspace(1, shift(0.001), N))                 ``TwiceShiftedSchedule()``

Levels are float64. The released code rounds them to float32 after it has cut them to whole timesteps; a solver with
float32 coefficients does that rounding itself, so that ``told`` sees the levels before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ovikit.types import AV, Modality

TIMESTEPS = 1000
"""Network timesteps per unit of sigma."""

# The order of operations below is the released code's: whether a level that falls on a whole timestep is cut to it or
# to the one before hangs on the last bit.


def _shifted(raw: float, shift: float) -> float:
    """Eq. (1)."""
    return shift * raw / (1 + (shift - 1) * raw)


def _grid(raw: list[float], shift: float) -> Tensor:
    """(len(raw) + 1,) float64: the shifted levels, and 0."""
    return torch.tensor([*(_shifted(level, shift) for level in raw), 0.0], dtype=torch.float64)


def _shifts(shift: float, audio_shift: float | None) -> AV[float]:
    """The shift of each modality; the audio's is the video's where it has none of its own."""
    return AV(shift, shift if audio_shift is None else audio_shift)


def _single(value: float) -> float:
    """``value`` rounded to float32."""
    return float(torch.tensor(value, dtype=torch.float32))


def _check(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a sampling run has at least one step, not {steps}")


@dataclass(frozen=True, slots=True)
class ShiftedSchedule:
    """Even levels from ``start`` to 0, shifted.

    shift, audio_shift: Eq. (1), of both modalities, or of the audio where it has its own
    start: first level before the shift, in (0, 1]; 0.999 in the released UniPC grid
    whole_timesteps: the network is told ``floor(1000 sigma) / 1000``, as the released UniPC and DPM++ do
    """

    shift: float = 5.0
    audio_shift: float | None = None
    start: float = 1.0
    whole_timesteps: bool = False

    def sigmas(self, steps: int) -> AV[Tensor]:
        """(steps + 1,) float64 per modality, falling, the last one 0."""
        _check(steps)
        # The released code holds its first level as a float32. Left at 0.999 in float64, levels that fall on a
        # whole timestep would come out just below it, and be cut to the one before.
        start = _single(self.start)
        raw = [i * (-start / steps) + start for i in range(steps)]
        return _shifts(self.shift, self.audio_shift).map(lambda shift: _grid(raw, shift))

    def told(self, sigma: AV[float]) -> AV[float]:
        """The level that the network is told at ``sigma``: the same, or cut to a whole timestep."""
        return sigma.map(lambda level: math.floor(level * TIMESTEPS) / TIMESTEPS) if self.whole_timesteps else sigma


@dataclass(frozen=True, slots=True)
class Window:
    """When one modality is denoised: in the steps from ``begin`` to ``end``, shares of a run. ``shift``: Eq. (1)."""

    shift: float = 5.0
    begin: float = 0.0
    end: float = 1.0

    def bounds(self, steps: int) -> tuple[int, int]:
        """The first step, and the step after the last one. Windows that touch do so at every number of steps."""
        first, last = (math.floor(share * steps + 0.5) for share in (self.begin, self.end))
        return first, last


@dataclass(frozen=True, slots=True)
class DecoupledSchedule:
    """Each modality has a window of the run: before it, it stays at its first level, after it, at 0.

    Within its window a modality has the levels of a ``ShiftedSchedule`` of as many steps.

    start, whole_timesteps: as there
    """

    windows: AV[Window] = AV(Window(), Window())
    start: float = 1.0
    whole_timesteps: bool = False

    def sigmas(self, steps: int) -> AV[Tensor]:
        """(steps + 1,) float64 per modality, not rising, the last one 0. ValueError where a window has no step."""
        _check(steps)

        def levels(modality: Modality, window: Window) -> Tensor:
            first, last = window.bounds(steps)
            if first == last:
                raise ValueError(
                    f"the {modality}'s window from {window.begin:g} to {window.end:g} has none of {steps} steps"
                )
            within = ShiftedSchedule(window.shift, start=self.start).sigmas(last - first)["video"]
            return torch.cat([within[:1].expand(first), within, within.new_zeros(steps - last)])

        return AV[Tensor].of({modality: levels(modality, window) for modality, window in self.windows.items()})

    def told(self, sigma: AV[float]) -> AV[float]:
        """The level that the network is told at ``sigma``: the same, or cut to a whole timestep."""
        return ShiftedSchedule(whole_timesteps=self.whole_timesteps).told(sigma)


@dataclass(frozen=True, slots=True)
class TwiceShiftedSchedule:
    """The grid of the released Euler sampler: it shifts the ends of the grid, then the grid.

    Its last level before 0 is small, ``shift(shift(0.001))``, whatever the number of steps.
    """

    shift: float = 5.0
    audio_shift: float | None = None

    def sigmas(self, steps: int) -> AV[Tensor]:
        """(steps + 1,) float64 per modality, falling, the last one 0."""
        _check(steps)
        return _shifts(self.shift, self.audio_shift).map(lambda shift: _grid(self._raw(steps, shift), shift))

    @staticmethod
    def _raw(steps: int, shift: float) -> list[float]:
        """Levels from 1 to shift(0.001), both included, before the second shift."""
        smallest = torch.tensor(1 / TIMESTEPS, dtype=torch.float32)
        last = float(shift * smallest / (1 + (shift - 1) * smallest)) * TIMESTEPS
        width = (last - TIMESTEPS) / max(steps - 1, 1)
        raw = [(i * width + TIMESTEPS) / TIMESTEPS for i in range(steps)]
        return raw if steps == 1 else [*raw[:-1], last / TIMESTEPS]

    def told(self, sigma: AV[float]) -> AV[float]:
        """``sigma`` in float32, as the released sampler holds it: this grid is not cut to whole timesteps."""
        return sigma.map(_single)
