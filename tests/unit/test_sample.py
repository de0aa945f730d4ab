"""The loop: what the network is shown at each step, what it is told, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from ovikit.numerics.guidance import ClassifierFree
from ovikit.numerics.protocols import Pass, Solver, in_turn
from ovikit.numerics.sample import draw_noise, sample
from ovikit.numerics.schedule import ShiftedSchedule
from ovikit.numerics.solver.dpmpp_2m import DpmPlusPlus2M
from ovikit.numerics.solver.euler import Euler
from ovikit.numerics.solver.heun import Heun
from ovikit.numerics.solver.res_2s import Res2S
from ovikit.numerics.solver.unipc import UniPC
from ovikit.types import AV

SHAPES: AV[tuple[int, ...]] = AV((2, 3, 4, 2, 2), (2, 5, 6))
NO_GUIDANCE = ClassifierFree(AV(1.0, 1.0))
SOLVERS: list[Solver[Any]] = [Euler(), Heun(), DpmPlusPlus2M(), UniPC(), Res2S()]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)


@dataclass
class Towards:
    """The exact velocity field of a data set of one clip per conditioning, and a record of its calls."""

    target: dict[str, float]
    calls: list[tuple[AV[Tensor], AV[float], Pass]] = field(default_factory=list)

    def __call__(self, x: AV[Tensor], sigma: AV[float], run: Pass) -> AV[Tensor]:
        self.calls.append((x, sigma, run))
        return x.zip(sigma, lambda value, level: (value - self.target[run.conditioning]) / max(level, 1e-6))


@each_solver
def test_noise_becomes_the_clip_that_the_network_knows(solver: Solver[Any]) -> None:
    out = sample(in_turn(Towards({"prompt": 0.4})), draw_noise(SHAPES, 0), ShiftedSchedule(), solver, NO_GUIDANCE, 6)
    for modality, latents in out.items():
        assert latents.shape == SHAPES[modality]
        torch.testing.assert_close(latents, torch.full_like(latents, 0.4), rtol=0, atol=1e-5)


def test_guidance_moves_each_modality_past_the_prompt_by_its_scale() -> None:
    network = Towards({"prompt": 1.0, "negative": 0.0})
    guidance = ClassifierFree(AV(4.0, 3.0), skip_layers=(1,))
    out = sample(in_turn(network), draw_noise(SHAPES, 0), ShiftedSchedule(), Euler(), guidance, 3)
    torch.testing.assert_close(out["video"], torch.full(SHAPES["video"], 4.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(out["audio"], torch.full(SHAPES["audio"], 3.0), rtol=0, atol=1e-5)
    assert [run.perturbation.skip_layers for _, _, run in network.calls] == [(), (1,)] * 3


def test_the_network_is_told_whole_timesteps_and_shown_the_latents_of_the_exact_level() -> None:
    network, noise = Towards({"prompt": 0.0}), draw_noise(SHAPES, 0)
    sample(in_turn(network), noise, ShiftedSchedule(3.0, start=0.999, whole_timesteps=True), Euler(), NO_GUIDANCE, 4)
    told = [sigma["video"] * 1000 for _, sigma, _ in network.calls]
    assert told == [999.0, 899.0, 749.0, 499.0]
    assert torch.equal(network.calls[0][0]["video"], noise["video"])


@each_solver
def test_clean_steps_are_shown_at_every_evaluation_and_come_back_untouched(solver: Solver[Any]) -> None:
    network = Towards({"prompt": 0.0})
    clean = AV(video=torch.full((2, 3, 1, 2, 2), 7.0))
    noise = draw_noise(SHAPES, 0)
    before = noise["video"].clone()
    out = sample(in_turn(network), noise, ShiftedSchedule(), solver, NO_GUIDANCE, 5, clean=clean)
    assert network.calls
    for x, _, _ in network.calls:
        assert torch.equal(x["video"][:, :, :1], clean["video"])
        assert not bool((x["video"][:, :, 1:] == 7.0).any())
    assert torch.equal(out["video"][:, :, :1], clean["video"])
    torch.testing.assert_close(out["video"][:, :, 1:], torch.zeros(2, 3, 3, 2, 2), rtol=0, atol=1e-5)
    assert torch.equal(noise["video"], before)


def test_clean_audio_steps_are_held_too() -> None:
    clean = AV(audio=torch.full((2, 5, 2), -3.0))
    out = sample(
        in_turn(Towards({"prompt": 0.0})),
        draw_noise(SHAPES, 0),
        ShiftedSchedule(),
        UniPC(),
        NO_GUIDANCE,
        3,
        clean=clean,
    )
    assert torch.equal(out["audio"][:, :, :2], clean["audio"])


def test_the_callback_is_told_of_every_step_with_its_latents() -> None:
    seen: list[tuple[int, int, AV[Tensor]]] = []
    out = sample(
        in_turn(Towards({"prompt": 0.0})), draw_noise(SHAPES, 0), ShiftedSchedule(), UniPC(), NO_GUIDANCE, 3,
        callback=lambda done, steps, x: seen.append((done, steps, x)),
    )  # fmt: skip
    assert [(done, steps) for done, steps, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] is out


def test_one_modality_runs_alone() -> None:
    out = sample(
        in_turn(Towards({"prompt": 0.4})), draw_noise(AV(audio=(1, 2, 3)), 0), ShiftedSchedule(), UniPC(),
        ClassifierFree(AV(1.0, 1.0)), 4,
    )  # fmt: skip
    assert out.video is None
    torch.testing.assert_close(out["audio"], torch.full((1, 2, 3), 0.4), rtol=0, atol=1e-5)


def test_guidance_is_told_the_levels_of_those_that_take_part() -> None:
    """A pass that needs the pair is of no use to a modality alone."""
    asked: list[AV[float]] = []

    class Asked(ClassifierFree):
        def passes(self, sigma: AV[float]) -> tuple[Pass, ...]:
            asked.append(sigma)
            return super().passes(sigma)

    network = in_turn(Towards({"prompt": 0.4}))
    sample(network, draw_noise(AV(audio=(1, 2, 3)), 0), ShiftedSchedule(), Euler(), Asked(AV(1.0, 1.0)), 2)
    assert [sigma.modalities for sigma in asked] == [("audio",)] * 2


def test_a_run_repeats_bit_for_bit_and_draws_nothing() -> None:
    def run() -> AV[Tensor]:
        return sample(
            in_turn(Towards({"prompt": 0.4})), draw_noise(SHAPES, 5), ShiftedSchedule(), UniPC(), NO_GUIDANCE, 4
        )

    first, state = run(), torch.get_rng_state()
    again = run()
    assert torch.equal(torch.get_rng_state(), state)
    for modality, latents in first.items():
        assert torch.equal(latents, again[modality])


def test_low_precision_velocities_are_guided_in_the_precision_of_the_latents() -> None:
    def network(x: AV[Tensor], sigma: AV[float], run: Pass) -> AV[Tensor]:
        speed = 1.0 if run.conditioning == "prompt" else 1 - 2**-7  # apart by one bfloat16 rounding
        return x.map(lambda value: torch.full_like(value, speed, dtype=torch.bfloat16))

    noise = AV(audio=torch.zeros(1, 1, 4))
    out = sample(in_turn(network), noise, ShiftedSchedule(), Euler(), ClassifierFree(AV(1.0, 3.0)), 2)
    torch.testing.assert_close(out["audio"], torch.full((1, 1, 4), -(1 - 2**-7 + 3 * 2**-7)))


def test_both_noises_begin_alike_with_one_seed_and_are_independent_without() -> None:
    shapes: AV[tuple[int, ...]] = AV((1, 4, 16, 8, 8), (1, 8, 512))
    alike = draw_noise(shapes, 3)
    assert torch.equal(alike["video"].flatten()[:4096], alike["audio"].flatten())
    apart = draw_noise(shapes, 3, same_seed=False)
    assert torch.equal(apart["video"], alike["video"])
    both = torch.stack([apart["video"].flatten()[:4096], apart["audio"].flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.06
    assert torch.equal(apart["audio"], draw_noise(shapes, 3, same_seed=False)["audio"])
    assert not torch.equal(alike["video"], draw_noise(shapes, 4)["video"])
