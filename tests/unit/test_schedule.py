"""The noise levels: their formulas, their ends, and what the network is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ovikit.builtin_numerics import DecoupledConfig
from ovikit.numerics.guidance import ClassifierFree
from ovikit.numerics.protocols import Pass, Solver, in_turn
from ovikit.numerics.sample import sample
from ovikit.numerics.schedule import DecoupledSchedule, ShiftedSchedule, TwiceShiftedSchedule, Window
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.res_2s import Res2S
from ovikit.numerics.solver.unipc import UniPC
from ovikit.types import AV

SOLVERS: list[Solver[Any]] = [Euler(), Heun(), DpmPlusPlus2M(), UniPC(), Res2S()]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
CASCADE = DecoupledSchedule(AV(Window(5.0, 0.0, 0.5), Window(2.0, 0.5, 1.0)))
ALONE = ClassifierFree(AV(1.0, 1.0))


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
    for schedule in (ShiftedSchedule(), TwiceShiftedSchedule(), DecoupledSchedule()):
        with pytest.raises(ValueError, match="at least one step"):
            schedule.sigmas(0)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize(("start", "whole"), [(1.0, False), (0.999, True)])
def test_decoupled_with_whole_windows_is_shifted(steps: int, start: float, whole: bool) -> None:
    expected = ShiftedSchedule(5.0, 2.0, start, whole)
    schedule = DecoupledSchedule(AV(Window(5.0), Window(2.0)), start, whole)
    for modality, sigmas in schedule.sigmas(steps).items():
        assert torch.equal(sigmas, expected.sigmas(steps)[modality])
    assert schedule.told(AV(0.93726, 0.0)) == expected.told(AV(0.93726, 0.0))


def test_a_modality_waits_for_its_window_and_is_done_after_it() -> None:
    sigmas = CASCADE.sigmas(8)
    assert torch.equal(sigmas["video"][:5], ShiftedSchedule(5.0).sigmas(4)["video"])
    assert bool((sigmas["video"][4:] == 0).all())
    assert bool((sigmas["audio"][:5] == 1).all())
    assert torch.equal(sigmas["audio"][4:], ShiftedSchedule(2.0).sigmas(4)["video"])


@pytest.mark.parametrize("steps", range(2, 13))
def test_windows_that_touch_do_so_at_every_number_of_steps(steps: int) -> None:
    for share in (0.5, 0.3, 0.75):
        schedule = DecoupledSchedule(AV(Window(end=share), Window(begin=share)))
        first = Window(end=share).bounds(steps)[1]
        if 0 < first < steps:
            moving = schedule.sigmas(steps).map(lambda sigmas: sigmas.diff() < 0)
            assert bool((moving["video"] ^ moving["audio"]).all())


def test_a_window_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the audio's window from 0\.9 to 1 has none of 2 steps"):
        DecoupledSchedule(AV(Window(), Window(begin=0.9))).sigmas(2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"video": {"begin": 0.5, "end": 0.5}}, "has no steps: begin is to be below end"),
        ({"video": {"begin": 0.2}, "audio": {"begin": 0.1}}, "neither modality is denoised"),
        ({"video": {"end": 0.4}, "audio": {"begin": 0.5}}, "neither modality is denoised"),
        ({"video": {"end": 0.4}, "audio": {"end": 0.9}}, "neither modality is denoised"),
    ],
)
def test_windows_that_leave_steps_empty_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DecoupledConfig.model_validate(options)


def coupled(x: AV[Tensor], sigma: AV[float], run: Pass) -> AV[Tensor]:
    """A field in which each modality hears the other and what is told of it."""
    video, audio = x["video"], x["audio"]
    heard = audio.mean() * (1 + sigma["audio"]), video.mean() * (1 + sigma["video"])
    return AV(torch.tanh(video + heard[0]) + sigma["video"], torch.cos(audio - heard[1]) * (1 + sigma["audio"]))


def noise() -> AV[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return AV(
        torch.randn(1, 3, 2, 2, 2, generator=generator, dtype=torch.float64),
        torch.randn(1, 5, 6, generator=generator, dtype=torch.float64),
    )


@each_solver
def test_a_cascade_is_two_runs_one_after_the_other(solver: Solver[Any]) -> None:
    together = sample(in_turn(coupled), noise(), CASCADE, solver, ALONE, 10)

    def video_first(x: AV[Tensor], sigma: AV[float], run: Pass) -> AV[Tensor]:
        return AV(coupled(AV(x["video"], noise()["audio"]), AV(sigma["video"], 1.0), run).video)

    video = sample(in_turn(video_first), AV(noise().video), ShiftedSchedule(5.0), solver, ALONE, 5)

    def then_audio(x: AV[Tensor], sigma: AV[float], run: Pass) -> AV[Tensor]:
        return AV(audio=coupled(AV(video["video"], x["audio"]), AV(0.0, sigma["audio"]), run).audio)

    audio = sample(in_turn(then_audio), AV(audio=noise().audio), ShiftedSchedule(2.0), solver, ALONE, 5)
    assert torch.equal(together["video"], video["video"])
    assert torch.equal(together["audio"], audio["audio"])


@each_solver
@pytest.mark.parametrize("windows", [((0, 1), (0, 1)), ((0, 0.6), (0.3, 1)), ((0.5, 1), (0, 0.5)), ((0, 1), (0, 0.2))])
@pytest.mark.parametrize("steps", [5, 9])
def test_every_solver_runs_through_every_window(solver: Solver[Any], windows: Any, steps: int) -> None:
    schedule = DecoupledSchedule(AV(Window(5.0, *windows[0]), Window(2.0, *windows[1])), start=0.999)
    for value in sample(in_turn(coupled), noise(), schedule, solver, ALONE, steps).values():
        assert bool(torch.isfinite(value).all())
