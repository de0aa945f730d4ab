"""The noise levels: their formulas, their ends, and what the network is told."""

from __future__ import annotations

import pytest
import torch

from ovikit.numerics.schedule import ShiftedSchedule, TwiceShiftedSchedule
from ovikit.types import AV


def test_shift_one_gives_even_levels() -> None:
    expected = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    assert torch.equal(ShiftedSchedule(shift=1.0).sigmas(4)["video"], expected)


@pytest.mark.parametrize("schedule", [ShiftedSchedule(3.0), ShiftedSchedule(3.0, start=0.9), TwiceShiftedSchedule(3.0)])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_levels_fall_strictly_to_an_exact_zero(schedule: ShiftedSchedule, steps: int) -> None:
    for sigmas in schedule.sigmas(steps).values():
        assert sigmas.dtype == torch.float64
        assert sigmas.shape == (steps + 1,)
        assert bool((sigmas.diff() < 0).all())
        assert sigmas[-1] == 0
        assert sigmas[0] <= 1


def test_shift_is_the_formula_of_the_released_code() -> None:
    raw = torch.linspace(0.999, 0, 11, dtype=torch.float64)[:-1]
    sigmas = ShiftedSchedule(5.0, start=0.999).sigmas(10)["video"]
    torch.testing.assert_close(sigmas[:-1], 5 * raw / (1 + 4 * raw), rtol=0, atol=1e-7)


def test_audio_takes_its_own_shift() -> None:
    sigmas = ShiftedSchedule(5.0, audio_shift=2.0).sigmas(8)
    assert torch.equal(sigmas["audio"], ShiftedSchedule(2.0).sigmas(8)["audio"])
    assert torch.equal(sigmas["video"], ShiftedSchedule(5.0).sigmas(8)["video"])
    twice = TwiceShiftedSchedule(5.0, audio_shift=2.0).sigmas(8)
    assert torch.equal(twice["audio"], TwiceShiftedSchedule(2.0).sigmas(8)["video"])


def test_twice_shifted_ends_at_the_twice_shifted_thousandth() -> None:
    once = 5 * 0.001 / (1 + 4 * 0.001)
    sigmas = TwiceShiftedSchedule(5.0).sigmas(6)["video"]
    assert float(sigmas[0]) == 1.0
    assert float(sigmas[-2]) == pytest.approx(5 * once / (1 + 4 * once), rel=1e-6)


def test_whole_timesteps_cut_the_level_and_nothing_else() -> None:
    sigma = AV(0.93726, 0.5)
    assert ShiftedSchedule(whole_timesteps=True).told(sigma) == AV(0.937, 0.5)
    assert ShiftedSchedule().told(sigma) == sigma


def test_a_told_whole_timestep_is_whole_again_when_scaled() -> None:
    schedule = ShiftedSchedule(whole_timesteps=True)
    for step in range(1001):
        assert schedule.told(AV(step / 1000 + 1e-9))["video"] * 1000 == step


def test_a_run_without_steps_is_refused() -> None:
    for schedule in (ShiftedSchedule(), TwiceShiftedSchedule()):
        with pytest.raises(ValueError, match="at least one step"):
            schedule.sigmas(0)
