"""What a sampling run asks of the network, found by running it on single numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ovikit.numerics.protocols import Guidance, Pass, Schedule, Solver
from ovikit.numerics.sample import sample
from ovikit.types import AV, Modality

_DIMENSIONS: AV[int] = AV(5, 3)


def passes_of_run(
    schedule: Schedule, solver: Solver[Any], guidance: Guidance, steps: int, modalities: tuple[Modality, ...]
) -> list[tuple[Pass, ...]]:
    """The passes of each field call of a run, in order.

    A guidance may ask for other passes at other levels, and a solver for levels between those of the schedule: so the
    loop itself is run, on latents of one number, with a network that takes notes.
    """
    asked: list[tuple[Pass, ...]] = []

    def network(x: AV[Tensor], told: AV[float], passes: tuple[Pass, ...]) -> Mapping[str, AV[Tensor]]:
        asked.append(passes)
        return {run.name: x for run in passes}

    noise = AV[Tensor].of({m: torch.ones((1,) * _DIMENSIONS[m], dtype=torch.float64) for m in modalities})
    sample(network, noise, schedule, solver, guidance, steps)
    return asked


def count_evaluations(
    schedule: Schedule, solver: Solver[Any], guidance: Guidance, steps: int, modalities: tuple[Modality, ...]
) -> int:
    """How often a sampling run evaluates the network for a batch of clips."""
    return sum(len(passes) for passes in passes_of_run(schedule, solver, guidance, steps, modalities))
