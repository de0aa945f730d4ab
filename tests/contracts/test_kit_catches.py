"""Components that are broken in one way each: the contract says so, by the one check that is about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from kit_examples import caught, component, failures
from torch import Tensor

from ovikit.kernel.component import Config
from ovikit.numerics.protocols import Field
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler, euler_step
from ovikit.numerics.solver.heun import Heun
from ovikit.testing import PositionsContract, SolverContract
from ovikit.testing.reference import ReferencePositions
from ovikit.types import AV, TokenGrid

# what every kind is held to


class Loose(Config, extra="ignore"):
    """Options that swallow mistakes."""

    scale: float = 1.0
    """By how much."""


class Silent(Config):
    """Options that nobody explains."""

    scale: float = 1.0


def test_options_that_swallow_mistakes() -> None:
    found = failures(SolverContract, component(lambda config: Euler(), Loose))
    caught(found, "test_unknown_options_are_refused", "ovikit.kernel.component.Config")


def test_options_that_nobody_explains() -> None:
    found = failures(SolverContract, component(lambda config: Euler(), Silent))
    caught(found, "test_every_option_is_explained", "scale")


def test_a_build_that_swallows_keywords() -> None:
    broken = component(lambda config, **anything: Euler())
    found = failures(SolverContract, broken)
    caught(found, "test_build_takes_the_keywords_of_its_kind", "swallows", "build(config)")


# positions


@dataclass(frozen=True)
class Bent:
    """Squares the time."""

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        return ReferencePositions().angles(grid, head_width, use).square()


class Single:
    """Works in float32."""

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        return grid.index[:, :1].expand(-1, head_width // 2).float()


class Clocked(ReferencePositions):
    """Measures frequencies by the time at which a clip starts."""

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        return super().angles(grid, head_width, use) * (1 + grid.edges_s[0][0])


class Delayed(ReferencePositions):
    """Shifts the audio."""

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        return super().angles(grid, head_width, use) + (0.1 if grid.modality == "audio" else 0.0)


class Narrow(ReferencePositions):
    """Leaves the pairs out that do not turn."""

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        found = super().angles(grid, head_width, use)
        return found if grid.modality == "video" else found[:, : head_width // 2 - 2 * (head_width // 8)]


class Stale:
    """Keeps the first grid's angles of a modality and a use, for whatever grid has fewer tokens."""

    def __init__(self) -> None:
        self.calls = 0

    def angles(self, grid: TokenGrid, head_width: int, use: Literal["self", "fusion"]) -> Tensor:
        self.calls += 1
        return ReferencePositions().angles(grid, head_width, use) * (1 + (self.calls > 1))


def positions_failures(scheme: type, **told: Any) -> dict[str, str]:
    return failures(PositionsContract, component(lambda config: scheme()), **{"aligned": "midpoint", **told})


def test_honest_positions_pass() -> None:
    assert positions_failures(ReferencePositions) == {}


def test_positions_that_are_not_linear() -> None:
    found = positions_failures(Bent)
    assert "linear in the place" in found.pop("test_scores_do_not_change_when_all_tokens_move")
    caught(found, "test_scores_do_not_change_with_the_clock", "0.7 s later")


def test_positions_in_float32() -> None:
    caught(positions_failures(Single, aligned=None), "test_angles_have_their_shape_and_format", "float64")


def test_positions_that_depend_on_the_clock() -> None:
    caught(positions_failures(Clocked), "test_scores_do_not_change_with_the_clock", "differences of times")


def test_positions_that_are_not_aligned_as_they_say() -> None:
    caught(positions_failures(Delayed), "test_equal_times_have_equal_angles", "same midpoint", "one origin")
    caught(positions_failures(ReferencePositions, aligned="start"), "test_equal_times_have_equal_angles", "same start")


def test_positions_without_an_angle_for_every_pair() -> None:
    found = positions_failures(Narrow, aligned=None)
    caught(found, "test_angles_have_their_shape_and_format", "zero where a pair does not turn")


def test_positions_that_remember_grids() -> None:
    caught(positions_failures(Stale), "test_equal_grids_have_equal_angles", "keep nothing")


# solvers


class Boastful(Euler):
    order = 2


class Short(Euler):
    """Its steps fall a little short."""

    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None) -> Any:
        moved, state = super().step(field, x, sigma, next_sigma, state)
        return moved.zip(x, lambda new, old: new + 1e-3 * (old - new)), state


class TrueHeun(Heun):
    """Evaluates at sigma 0 as well."""

    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None) -> Any:
        first = field(x, sigma)
        second = field(euler_step(x, first, sigma, next_sigma, "float64"), next_sigma)
        return euler_step(x, first.zip(second, lambda a, b: (a + b) / 2), sigma, next_sigma, "float64"), state


class InPlace(Euler):
    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None) -> Any:
        moved, state = super().step(field, x, sigma, next_sigma, state)
        return x.zip(moved, lambda old, new: old.copy_(new)), state


class OneLevelForAll(Euler):
    """Moves both modalities by the video's levels."""

    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None) -> Any:
        one, after = (next(iter(pair.values())) for pair in (sigma, next_sigma))
        width = x.map(lambda _: one), x.map(lambda _: after)
        return euler_step(x, field(x, sigma), *width, "float64"), state


class Widening(Euler):
    """Works in float64 and stays there."""

    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None) -> Any:
        return super().step(field, x.map(lambda value: value.double()), sigma, next_sigma, state)


class Secretive(DpmPlusPlus2M):
    """Keeps its history to itself: hidden from its class's slots, in a list that all steps share."""

    shared: list[Any] = []  # noqa: RUF012

    def init(self, x: AV[Tensor]) -> Any:
        self.shared.clear()
        return super().init(x)

    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: Any) -> Any:
        moved, after = super().step(field, x, sigma, next_sigma, self.shared[-1] if self.shared else state)
        self.shared.append(after)
        return moved, after


class BatchNormed(Euler):
    """Scales the velocity by a norm over the whole batch."""

    def step(self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: None) -> Any:
        def even(v: Tensor) -> Tensor:
            return v if v.ndim == 1 else v + 1e-3 * (v - v.mean(dim=0, keepdim=True))

        return super().step(lambda y, level: field(y, level).map(even), x, sigma, next_sigma, state)


def solver_failures(solver: type) -> dict[str, str]:
    return failures(SolverContract, component(lambda config: solver()))


@pytest.mark.parametrize("solver", [Euler, Heun, DpmPlusPlus2M])
def test_honest_solvers_pass(solver: type) -> None:
    assert solver_failures(solver) == {}


def test_solver_of_less_order_than_it_says() -> None:
    found = solver_failures(Boastful)
    assert "2 is declared" in found["test_order_from_noise_to_data_is_the_declared_one"]
    assert list(found) == ["test_order_from_noise_to_data_is_the_declared_one", "test_order_within_the_path"]


def test_solver_whose_steps_fall_short() -> None:
    found = solver_failures(Short)
    assert "add up to next_sigma - sigma" in found["test_a_constant_velocity_is_followed_exactly"]


def test_solver_that_evaluates_at_sigma_0() -> None:
    caught(solver_failures(TrueHeun), "test_one_clip_as_data_is_reached", "do not evaluate at sigma 0")


def test_solver_that_writes_into_its_input() -> None:
    found = solver_failures(InPlace)
    assert "in-place" in found["test_a_step_changes_neither_its_state_nor_its_input"]


def test_solver_with_one_level_for_both_modalities() -> None:
    found = solver_failures(OneLevelForAll)
    assert "sigma[modality]" in found.pop("test_modalities_are_as_if_alone")
    caught(found, "test_a_level_that_does_not_change_moves_nothing", "leave a modality")


def test_solver_that_widens_the_latents() -> None:
    caught(solver_failures(Widening), "test_latents_keep_their_dtype", "cast the velocity")


def test_solver_that_keeps_history_to_itself() -> None:
    found = solver_failures(Secretive)
    assert "carry all history in the state" in found["test_a_step_changes_neither_its_state_nor_its_input"]


def test_solver_that_mixes_the_batch() -> None:
    caught(solver_failures(BatchNormed), "test_items_of_a_batch_do_not_meet", "over the batch")
