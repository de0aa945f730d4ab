"""Replay of a ``samplers`` golden file: our grids and trajectories beside the recorded ones.

The file holds, for ``<solver>.steps<N>.shift<s>``, ``sigmas`` (N + 1,), ``timesteps`` (N,) and ``trajectory``
(N + 1, ...), recorded in float32 on the velocity of ``velocity`` below; the trajectory starts with the initial x.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.numerics.protocols import Schedule, Solver
from ovikit.numerics.schedule import TIMESTEPS, ShiftedSchedule, TwiceShiftedSchedule
from ovikit.numerics.solver.coefficients import Precision
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler
from ovikit.numerics.solver.unipc import UniPC
from ovikit.types import AV
from ovikit_ovi.parity.golden import Golden

_NAME = re.compile(r"(?P<solver>.+?)\.steps(?P<steps>\d+)\.shift(?P<shift>\d+(?:\.\d+)?)")

_RELEASED: dict[str, tuple[Callable[[float], Schedule], Callable[[Precision], Solver[Any]]]] = {
    "unipc": (lambda shift: ShiftedSchedule(shift, start=0.999, whole_timesteps=True), UniPC),
    "dpm++": (lambda shift: ShiftedSchedule(shift, whole_timesteps=True), DpmPlusPlus2M),
    "euler": (TwiceShiftedSchedule, Euler),
}
"""The schedule and the solver that stand for each released sampler."""


def velocity(x: Tensor, timestep: float) -> Tensor:
    """The velocity that the trajectories were recorded on (golden README)."""
    return torch.tanh(0.7 * x) * (0.4 + timestep / 1000) + 0.3 * torch.cos(1.3 * x + timestep / 250)


def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor name, ours, reference) of every tensor of the file, in the order of its names.

    ``dtype``: of the latents and of the solver's coefficients. The reference is float32, its sigmas rounded: in
    float64 ours are the exact ones, and agree with it to float32's precision only.
    """
    tensors = golden.tensors
    for case in sorted({name.rpartition(".")[0] for name in tensors}):
        found = _NAME.fullmatch(case)
        if found is None or found["solver"] not in _RELEASED:
            raise UserError(
                f"no sampler is called {case!r}",
                str(golden.path),
                f"known: {', '.join(_RELEASED)}, as in unipc.steps10.shift5",
            )
        make_schedule, make_solver = _RELEASED[found["solver"]]
        schedule = make_schedule(float(found["shift"]))
        solver = make_solver("float32" if dtype == torch.float32 else "float64")
        absent = [name for name in ("sigmas", "timesteps", "trajectory") if f"{case}.{name}" not in tensors]
        if absent:
            raise UserError(f"sampler {case!r} has no {', '.join(absent)}", str(golden.path))
        start = tensors[f"{case}.trajectory"][0].to(dtype)
        ours = _run(schedule, solver, int(found["steps"]), start)
        for name, value in ours.items():
            yield case, name, value, tensors[f"{case}.{name}"]


def _run(schedule: Schedule, solver: Solver[Any], steps: int, start: Tensor) -> dict[str, Tensor]:
    """Our sigmas, timesteps and trajectory. The x may have any shape: it goes through as one modality's latents."""
    sigmas = schedule.sigmas(steps)["video"].to(start.dtype)
    levels = [float(sigma) for sigma in schedule.sigmas(steps)["video"]]

    def timestep(sigma: AV[float]) -> float:
        return float(torch.tensor(schedule.told(sigma)["video"] * TIMESTEPS, dtype=start.dtype))

    def field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        return AV(velocity(x["video"], timestep(sigma)))

    x = AV(start)
    state, trajectory = solver.init(x), [start]
    for before, after in pairwise(levels):
        x, state = solver.step(field, x, AV(before), AV(after), state)
        trajectory.append(x["video"])
    timesteps = torch.tensor([timestep(AV(level)) for level in levels[:-1]], dtype=torch.float64)
    return {"sigmas": sigmas, "timesteps": timesteps, "trajectory": torch.stack(trajectory)}
