"""The contract of solvers: they converge as they say, and nothing of a run stays in them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.curves import known_field, observed_order, run, shifted, start
from ovikit.types import AV


class SolverContract(Contract):
    """Subclass it and name the component.

    order_within: the order that is seen between sigma 0.9 and 0.1, where that is another one than the solver declares
    steps:        numbers of steps that the order is fitted over
    """

    kind = "solver"
    order_within: ClassVar[float | None] = None
    steps: ClassVar[Sequence[int]] = (64, 128, 256, 512)

    def test_order_from_noise_to_data_is_the_declared_one(self) -> None:
        """Halving the steps of a whole run, from sigma 1 to 0, divides the error by 2 ** order."""
        solver = self.build()
        found = observed_order(solver, 1.0, 0.0, self.steps)
        assert abs(found - solver.order) < 0.25, (
            f"from noise to data the error falls with the power {found:.2f} of the steps, and {solver.order} is "
            "declared; "
            "look at the coefficients and at the first and last step, or declare what is so"
        )

    def test_order_within_the_path(self) -> None:
        """The same between sigma 0.9 and 0.1, where neither end is special."""
        solver = self.build()
        wanted = solver.order if self.order_within is None else self.order_within
        found = observed_order(solver, 0.9, 0.1, self.steps)
        assert abs(found - wanted) < 0.25, (
            f"within the path the error falls with the power {found:.2f} of the steps, and {wanted} is declared; "
            "look at the coefficients, or set order_within"
        )

    def test_a_constant_velocity_is_followed_exactly(self) -> None:
        """A straight path is walked without error, in any number of steps."""
        speed = torch.linspace(-2, 3, 7, dtype=torch.float64)
        for steps in (1, 2, 3, 10):
            for first in (1.0, 0.999):
                levels = shifted(steps, start=first)
                end = run(self.build(), lambda x, sigma: AV(speed), AV(start()), AV(levels))["video"]
                off = float((end - (start() - levels[0] * speed)).abs().max())
                assert off < 1e-12, (
                    f"with a constant velocity, {steps} steps end {off:.2g} off; the weights of a step's velocities "
                    "have "
                    "to add up to next_sigma - sigma"
                )

    def test_one_clip_as_data_is_reached(self) -> None:
        """The exact field of a data set of one clip, (x - clip) / sigma, ends on the clip."""
        clip = torch.full_like(start(), 0.3)

        def field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
            return x.zip(sigma, lambda value, level: (value - clip) / max(level, 1e-12))

        end = run(self.build(), field, AV(start()), AV(shifted(8)))["video"]
        off = float((end - clip).abs().max())
        assert off < 1e-9, (
            f"a field that points straight at one clip ends {off:.2g} off it; do not evaluate at sigma 0, where "
            "latents "
            "hold no trace of the noise: let the last step be the one that needs no second evaluation there"
        )

    def test_a_step_changes_neither_its_state_nor_its_input(self) -> None:
        """A step is a function: called twice, it gives the same twice, and what it was given stays."""
        solver, x = self.build(), AV(start(), 2 * start())
        state = solver.init(x)
        for before, after in pairwise(shifted(6)):
            sigma, next_sigma = AV(before, before), AV(after, after)
            kept, state_kept = x.map(Tensor.clone), copy.deepcopy(state)
            once, state_once = solver.step(known_field, x, sigma, next_sigma, state)
            assert all(torch.equal(x[m], kept[m]) for m in x.modalities), (
                "a step writes into the latents it was given; make new tensors, without in-place operations"
            )
            again, _ = solver.step(known_field, x, sigma, next_sigma, state)
            fresh, _ = self.build().step(known_field, x, sigma, next_sigma, state_kept)
            assert all(torch.equal(once[m], again[m]) and torch.equal(once[m], fresh[m]) for m in x.modalities), (
                "a step that is taken twice from one state does not give the same; carry all history in the state that "
                "step returns, and nothing in the solver or inside of the state that came in"
            )
            x, state = once, state_once

    def test_modalities_are_as_if_alone(self) -> None:
        """Levels and history of one modality do not touch the other, and a pair may have one modality only."""
        video, audio = shifted(9, 5.0), shifted(9, 2.0)
        both = run(self.build(), known_field, AV(start(), 2 * start()), AV(video, audio))
        alone = AV(
            run(self.build(), known_field, AV(start()), AV(video))["video"],
            run(self.build(), known_field, AV(audio=2 * start()), AV(audio=audio))["audio"],
        )
        for modality in both.modalities:
            off = float((both[modality] - alone[modality]).abs().max())
            assert off < 1e-12, (
                f"the {modality} ends {off:.2g} off from where it ends alone; use sigma[modality] and a state per "
                "modality"
            )

    def test_a_level_that_does_not_change_moves_nothing(self) -> None:
        """A modality that has arrived, or is given, stays while the other one is denoised."""
        for level in (0.0, 0.4):
            end = run(self.build(), known_field, AV(start(), start()), AV(shifted(5), [level] * 6))
            assert torch.equal(end["audio"], start()), (
                f"latents that stay at sigma {level} are moved (or NaN); leave a modality whose two levels are equal "
                "alone"
            )
            assert bool(torch.isfinite(end["video"]).all()), "the modality beside one that stays is no longer finite"

    def test_both_ends_of_the_path_are_finite(self) -> None:
        """Sigma 1, where log-SNR is minus infinity, and sigma 0, where it is plus infinity, give finite latents."""
        for levels in (shifted(6), [1.0, 0.0], [1.0, 0.5], [0.5, 0.0], [1.0, 1e-12, 0.0]):
            end = run(self.build(), known_field, AV(start()), AV(levels))["video"]
            assert bool(torch.isfinite(end).all()), (
                f"over the levels {levels} latents become NaN or Inf; take the limits"
            )

    def test_latents_keep_their_dtype(self) -> None:
        """The arithmetic is that of the latents, whatever format the velocity comes in."""
        for latents in (torch.float32, torch.float64):
            for speed in (torch.bfloat16, torch.float32, torch.float64):

                def field(x: AV[Tensor], sigma: AV[float], dtype: torch.dtype = speed) -> AV[Tensor]:
                    return x.map(lambda value: value.to(dtype))

                found = run(self.build(), field, AV(start().to(latents)), AV(shifted(4)))["video"].dtype
                assert found == latents, f"{latents} latents with a {speed} velocity become {found}; cast the velocity"

    def test_items_of_a_batch_do_not_meet(self) -> None:
        """An item in a batch of latents comes out as it does alone."""
        batch = torch.stack((start(), 3 * start(), start() - 1))
        whole = run(self.build(), known_field, AV(batch), AV(shifted(7)))["video"]
        for i in range(3):
            alone = run(self.build(), known_field, AV(batch[i : i + 1]), AV(shifted(7)))["video"]
            off = float((whole[i : i + 1] - alone).abs().max())
            assert off < 1e-12, f"item {i} of a batch ends {off:.2g} off; take no norm or mean over the batch"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """A run of a solver draws nothing: noise is drawn before it, from the seed."""
        with global_generators_unused(f"the solver '{self.found().name}'"):
            run(self.build(), known_field, AV(start()), AV(shifted(4)))
