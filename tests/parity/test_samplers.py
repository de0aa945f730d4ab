"""Our schedules and solvers against the released samplers, and against diffusers' UniPC where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovikit.errors import UserError
from ovikit.numerics.schedule import ShiftedSchedule
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.unipc import UniPC
from ovikit.types import AV
from ovikit_ovi.parity.golden import Golden
from ovikit_ovi.parity.samplers import replay, velocity

GOLDEN = load_file(Path(__file__).parent / "golden" / "samplers.safetensors")
CASES = sorted({name.rpartition(".")[0] for name in GOLDEN})


def error(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).abs().max() / reference.abs().max())


def file_of(tensors: dict[str, Tensor]) -> Golden:
    return Golden(Path("samplers.safetensors"), tensors, {})


def only(case: str) -> Golden:
    return file_of({name: value for name, value in GOLDEN.items() if name.startswith(f"{case}.")})


@pytest.mark.parametrize("case", CASES)
def test_float32_runs_have_the_released_grid_and_trajectory(case: str) -> None:
    compared = list(replay(only(case), torch.float32))
    assert [name for _, name, _, _ in compared] == ["sigmas", "timesteps", "trajectory"]
    for _, name, ours, reference in compared:
        assert ours.shape == reference.shape
        # Measured: 0. The grid is exact anywhere; log and expm1 may differ by a bit between processors.
        assert error(ours, reference) <= (0 if name != "trajectory" else 1e-6), name


@pytest.mark.parametrize("case", CASES)
def test_float64_runs_agree_with_the_float32_reference_to_its_precision(case: str) -> None:
    for _, name, ours, reference in replay(only(case), torch.float64):
        assert ours.dtype == torch.float64
        assert error(ours, reference) <= 2e-6, name


@pytest.mark.parametrize("solver", [UniPC(), DpmPlusPlus2M()], ids=lambda solver: type(solver).__name__)
def test_float64_coefficients_on_float32_latents_stay_within_tolerance(solver: UniPC | DpmPlusPlus2M) -> None:
    unipc = isinstance(solver, UniPC)
    case = "unipc.steps50.shift5" if unipc else "dpm++.steps50.shift5"
    schedule = ShiftedSchedule(5.0, start=0.999 if unipc else 1.0, whole_timesteps=True)
    trajectory = GOLDEN[f"{case}.trajectory"]
    x: AV[Tensor] = AV(trajectory[0])
    levels = schedule.sigmas(50)["video"].tolist()
    state = solver.init(x)
    for i in range(50):
        x, state = solver.step(
            lambda x, sigma: AV(velocity(x["video"], schedule.told(sigma)["video"] * 1000)),
            x, AV(levels[i]), AV(levels[i + 1]), state,  # type: ignore[arg-type]
        )  # fmt: skip
        assert error(x["video"], trajectory[i + 1]) <= 1e-5


def test_a_case_of_an_unknown_sampler_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"leapfrog\.steps3\.shift2"):
        list(replay(file_of({"leapfrog.steps3.shift2.sigmas": torch.zeros(4)}), torch.float32))


def test_a_case_without_a_trajectory_is_refused() -> None:
    with pytest.raises(UserError, match="has no timesteps, trajectory"):
        list(replay(file_of({"unipc.steps3.shift2.5.sigmas": torch.zeros(4)}), torch.float32))


@pytest.mark.parametrize(("steps", "shift"), [(3, 1.0), (7, 2.5), (20, 12.0)])
def test_unipc_is_the_one_of_diffusers(steps: int, shift: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    levels = ShiftedSchedule(shift, start=0.999).sigmas(steps)["video"]
    theirs = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    )  # fmt: skip
    theirs.set_timesteps(sigmas=levels[:-1].numpy())
    solver, start = UniPC(coefficients="float32"), GOLDEN["unipc.steps4.shift5.trajectory"][0]
    x, expected, state = AV(start), start, solver.init(AV(start))
    for i, timestep in enumerate(theirs.timesteps):
        speed = velocity(expected, 1000 * float(levels[i]))
        expected = theirs.step(speed, timestep, expected, return_dict=False)[0]
        x, state = solver.step(
            lambda x, sigma: AV(velocity(x["video"], 1000 * sigma["video"])),
            x, AV(float(levels[i])), AV(float(levels[i + 1])), state,
        )  # fmt: skip
        assert error(x["video"], expected) <= 1e-6
