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
from ovikit.numerics.solver.unipc import UniPC, corrector_weights
from ovikit.testing.curves import known_field, observed_order, run, shifted, start
from ovikit.types import AV

SOLVERS: list[Solver[Any]] = [Euler(), Heun(), DpmPlusPlus2M(), UniPC()]
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
    solver = solver if isinstance(solver, Heun) else type(solver)(coefficients)  # type: ignore[call-arg]
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
