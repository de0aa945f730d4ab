"""What a sampling run asks of the network, against formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from ovikit.numerics.evaluations import count_evaluations, passes_of_run
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.numerics.protocols import Pass
from ovikit.numerics.schedule import DecoupledSchedule, ShiftedSchedule, Window
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.res_2s import Res2S
from ovikit.numerics.solver.unipc import UniPC
from ovikit.types import AV, MODALITIES, Modality, Perturbation

GUIDED = ClassifierFree(AV(4.0, 3.0), skip_layers=(2,))
ALONE = ClassifierFree(AV(1.0, 1.0))


@dataclass(frozen=True)
class Late:
    """A guidance that asks for a second pass at low levels of the video only."""

    evaluations: int = 2
    below: float = 0.5

    def passes(self, sigma: AV[float]) -> tuple[Pass, ...]:
        skipping = Pass("late", NEGATIVE, Perturbation(skip_layers=(7,)))
        return (Pass(PROMPT, PROMPT), *((skipping,) if sigma["video"] < self.below else ()))

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        return velocities[PROMPT]


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("modalities", [("video",), ("audio",), MODALITIES], ids=str)
def test_evaluations_are_passes_times_calls(steps: int, modalities: tuple[Modality, ...]) -> None:
    def count(solver: Any, guidance: Any) -> int:
        return count_evaluations(ShiftedSchedule(), solver, guidance, steps, modalities)

    for solver in (Euler(), DpmPlusPlus2M(), UniPC()):
        assert count(solver, GUIDED) == 2 * steps
        assert count(solver, ALONE) == steps
    for solver in (Heun(), Res2S()):
        assert count(solver, GUIDED) == 2 * (2 * steps - 1)
        assert count(solver, ALONE) == 2 * steps - 1


def test_a_cascade_saves_an_evaluation_of_solvers_that_end_on_one() -> None:
    cascade = DecoupledSchedule(AV(Window(5.0, 0.0, 0.4), Window(5.0, 0.4, 1.0)))
    assert count_evaluations(cascade, UniPC(), GUIDED, 10, MODALITIES) == 2 * 10
    for solver in (Heun(), Res2S()):
        assert count_evaluations(cascade, solver, GUIDED, 10, MODALITIES) == 2 * (2 * 4 - 1 + 2 * 6 - 1)


def test_levels_between_those_of_the_schedule_are_seen() -> None:
    even = ShiftedSchedule(shift=1.0)
    low = [level < 0.5 for level in even.sigmas(4)["video"][:-1].tolist()]
    assert count_evaluations(even, Euler(), Late(), 4, MODALITIES) == 4 + sum(low)
    # 1, 0.75 and 0.5 have their stages between them: one of them lies below 0.5
    assert count_evaluations(even, Res2S(), Late(), 4, MODALITIES) == (2 * 4 - 1) + sum(low) + 1
    (only,) = {
        run for passes in passes_of_run(even, Euler(), Late(), 4, MODALITIES) for run in passes if run.name == "late"
    }
    assert only.perturbation.skip_layers == (7,)


def test_counting_draws_nothing() -> None:
    state = torch.get_rng_state()
    count_evaluations(ShiftedSchedule(), UniPC(), GUIDED, 3, MODALITIES)
    assert torch.equal(torch.get_rng_state(), state)
