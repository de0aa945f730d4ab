"""The solvers: order of convergence, exactness, explicit state, and both ends of the path.

The field and its known curves are those of ``ovikit.testing.curves``, which the contract of solvers uses as well.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ovikit.numerics.protocols import Solver
from ovikit.numerics.solver.coefficients import scalar
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.res_2s import Leg, Res2S
from ovikit.numerics.solver.unipc import UniPC, corrector_weights
from ovikit.testing.curves import known_field, observed_order, run, shifted, solution, start
from ovikit.types import AV

SOLVERS: list[Solver[Any]] = [Euler(), Heun(), DpmPlusPlus2M(), UniPC(), Res2S()]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
START = start()


@each_solver
def test_order_of_convergence_from_noise_to_data_is_the_declared_one(solver: Solver[Any]) -> None:
    assert observed_order(solver, 1.0, 0.0) == pytest.approx(solver.order, abs=0.25)


@each_solver
def test_order_of_convergence_within_the_path(solver: Solver[Any]) -> None:
    gained = 1 if isinstance(solver, UniPC) else 0  # what its corrector adds, where the last step does not take it back
    assert observed_order(solver, 0.9, 0.1) == pytest.approx(solver.order + gained, abs=0.2)


@each_solver
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("start", [1.0, 0.999])
def test_a_constant_velocity_is_followed_exactly(solver: Solver[Any], steps: int, start: float) -> None:
    speed = torch.linspace(-2, 3, 7, dtype=torch.float64)
    levels = shifted(steps, start=start)
    end = run(solver, lambda x, sigma: AV(speed), AV(START), AV(levels))["video"]
    torch.testing.assert_close(end, START - levels[0] * speed, rtol=0, atol=1e-13)


@each_solver
def test_one_clip_as_data_is_reached_from_any_noise(solver: Solver[Any]) -> None:
    """The exact field of a one-clip data set, (x - clip) / sigma, is straight: every solver lands on the clip."""
    clip = torch.full_like(START, 0.3)

    def field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        return x.zip(sigma, lambda value, level: (value - clip) / max(level, 1e-12))

    end = run(solver, field, AV(START), AV(shifted(8)))["video"]
    torch.testing.assert_close(end, clip, rtol=0, atol=1e-12)


@each_solver
def test_a_step_changes_neither_its_state_nor_its_input(solver: Solver[Any]) -> None:
    levels = shifted(6)
    x: AV[Tensor] = AV(START)
    state = solver.init(x)
    for before, after in pairwise(levels):
        kept = x["video"].clone()
        once, state_once = solver.step(known_field, x, AV(before), AV(after), state)
        again, _ = solver.step(known_field, x, AV(before), AV(after), state)
        assert torch.equal(once["video"], again["video"])
        assert torch.equal(x["video"], kept)
        x, state = once, state_once


@each_solver
def test_modalities_with_levels_of_their_own_are_as_if_alone(solver: Solver[Any]) -> None:
    video, audio = shifted(9, 5.0), shifted(9, 2.0)
    both = run(solver, known_field, AV(START, 2 * START), AV(video, audio))
    assert torch.equal(both["video"], run(solver, known_field, AV(START), AV(video))["video"])
    alone = run(solver, known_field, AV(audio=2 * START), AV(audio=audio))
    assert torch.equal(both["audio"], alone["audio"])


@each_solver
def test_a_modality_whose_level_does_not_change_stays(solver: Solver[Any]) -> None:
    end = run(solver, known_field, AV(START, START), AV(shifted(5), [0.0] * 6))
    assert torch.equal(end["audio"], START)
    assert bool(torch.isfinite(end["video"]).all())


@each_solver
def test_the_start_at_pure_noise_is_the_limit_of_starts_beside_it(solver: Solver[Any]) -> None:
    def end(first: float) -> Tensor:
        return run(solver, known_field, AV(START), AV([first, *shifted(6)[1:]]))["video"]

    assert bool(torch.isfinite(end(1.0)).all())
    near, nearer = ((end(1 - gap) - end(1.0)).abs().max() for gap in (1e-4, 1e-8))
    # lambda goes to -inf only logarithmically: the history's weight falls like 1 / log(gap)
    assert nearer < near < 0.05


@each_solver
@pytest.mark.parametrize("coefficients", ["float64", "float32"])
def test_latents_keep_their_dtype_whatever_the_velocity_has(solver: Solver[Any], coefficients: str) -> None:
    solver = solver if isinstance(solver, Heun | Res2S) else type(solver)(coefficients)  # type: ignore[call-arg]
    x = AV(START.float())
    end = run(solver, lambda x, s: x.map(lambda value: value.to(torch.bfloat16)), x, AV(shifted(4)))
    assert end["video"].dtype == torch.float32
    end = run(solver, lambda x, s: x.map(lambda value: value.double()), x, AV(shifted(4)))
    assert end["video"].dtype == torch.float32


def test_corrector_weights_solve_the_order_conditions() -> None:
    h, r = 0.7, -1.3
    before, here = corrector_weights(scalar(h, "float64"), scalar(r, "float64"))
    growth = math.expm1(-h)
    first = growth / -h - 1
    assert before + here == pytest.approx(first / growth)
    assert r * before + here == pytest.approx(2 * (first / -h - 0.5) / growth)


def test_corrector_weights_of_an_infinitely_distant_level_are_the_limit() -> None:
    h = scalar(0.7, "float64")
    before, here = corrector_weights(h, scalar(-math.inf, "float64"))
    far_before, far_here = corrector_weights(h, scalar(-1e9, "float64"))
    assert before == pytest.approx(far_before, abs=1e-8)
    assert here == pytest.approx(far_here, abs=1e-8)


def counted(solver: Solver[Any], levels: AV[list[float]]) -> int:
    calls = 0

    def field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        nonlocal calls
        calls += 1
        return known_field(x, sigma)

    run(solver, field, levels.map(lambda _: START), levels)
    return calls


@pytest.mark.parametrize("solver", [Heun(), Res2S()], ids=lambda solver: type(solver).__name__)
def test_a_second_evaluation_is_made_where_a_modality_has_a_use_for_it(solver: Solver[Any]) -> None:
    assert counted(solver, AV(shifted(7))) == 2 * 7 - 1
    assert counted(solver, AV([1.0, 0.5, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.5, 0.0])) == 2 * (2 * 2 - 1)
    assert counted(solver, AV([0.5, 0.0], [0.5, 0.2])) == 2
    assert counted(solver, AV([0.5, 0.5], [0.5, 0.5])) == 1


@each_solver
@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_what_the_network_says_of_a_modality_that_waits_or_is_done_has_no_effect(
    solver: Solver[Any], level: float
) -> None:
    """Nor does it matter when the other one arrives at 0."""

    def broken(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        return AV(known_field(AV(x["video"]), AV(sigma["video"])).video, torch.full_like(START, math.nan))

    end = run(solver, broken, AV(START, START), AV(shifted(4), [level] * 5))
    assert torch.equal(end["audio"], START)
    assert torch.equal(end["video"], run(solver, known_field, AV(START), AV(shifted(4)))["video"])


def stage_and_step(first: float, last: float) -> tuple[float, float, float]:
    """(sigma of the stage, weight of the stage's data, order-one weight) of a step of Res2S."""
    leg = Leg.between(first, last)
    return leg.middle, leg.turn, 1 - leg.keep


def test_res_2s_has_its_stage_halfway_in_log_snr_and_the_weights_of_the_method() -> None:
    first, last = 0.8, 0.6
    middle, turn, gain = stage_and_step(first, last)

    def log_snr(sigma: float) -> float:
        return math.log((1 - sigma) / sigma)

    assert log_snr(middle) == pytest.approx((log_snr(first) + log_snr(last)) / 2)
    h = log_snr(last) - log_snr(first)
    phi_1 = math.expm1(-h) / -h
    phi_2 = (phi_1 - 1) / -h
    assert gain == pytest.approx((1 - last) * h * phi_1)
    assert turn == pytest.approx((1 - last) * h * phi_2 / 0.5)


def test_res_2s_is_exact_for_data_that_is_linear_in_log_snr() -> None:
    """What the weights phi_1 and phi_2 are for; the integral by a fine sum, Eq. 1 of ``coefficients``."""
    first, last = 0.7, 0.45

    def data(sigma: float) -> Tensor:
        return 0.3 + 0.2 * math.log((1 - sigma) / sigma) * torch.ones(1, dtype=torch.float64)

    def field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        return x.zip(sigma, lambda value, level: (value - data(level)) / level)

    u = torch.linspace((1 - first) / first, (1 - last) / last, 20001, dtype=torch.float64)
    x = torch.full((1,), 0.9, dtype=torch.float64)
    exact = last * (x / first + torch.trapezoid(0.3 + 0.2 * u.log(), u))
    end, _ = Res2S().step(field, AV(x), AV(first), AV(last), None)
    torch.testing.assert_close(end["video"], exact, rtol=0, atol=1e-9)


def test_res_2s_takes_a_step_of_second_order_from_pure_noise() -> None:
    """Its error falls with the cube of its length; that of a step of first order with the square."""

    def error(solver: Solver[Any], length: float) -> float:
        end, _ = solver.step(known_field, AV(START), AV(1.0), AV(1 - length), solver.init(AV(START)))
        return float((end["video"] - solution(START, 1.0, 1 - length)).abs().max())

    assert error(Res2S(), 0.02) / error(Res2S(), 0.01) == pytest.approx(8, rel=0.1)
    assert error(UniPC(), 0.02) / error(UniPC(), 0.01) == pytest.approx(4, rel=0.1)


def test_the_stage_of_res_2s_never_slips_back_to_noise() -> None:
    for first in (1.0, 1 - 1e-12, 1 - 1e-6, 0.999):
        middle, turn, _ = stage_and_step(first, 0.9)
        assert middle == pytest.approx(1 / (1 + 0.5 * 0.1 / 0.9), rel=1e-3)
        assert turn == pytest.approx(0.1, rel=0.12)
    assert stage_and_step(1.0, 0.9)[1] == pytest.approx(0.1, abs=1e-15)
