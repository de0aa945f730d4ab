"""The contract of schedules: levels that fall from noise to data."""

from __future__ import annotations

from typing import ClassVar

import torch

from ovikit.numerics.protocols import Schedule
from ovikit.testing.contract import Contract, global_generators_unused, refuses
from ovikit.types import AV, MODALITIES


class ScheduleContract(Contract):
    """Subclass it and name the component.

    steps: numbers of steps that the checks ask for
    """

    kind = "schedule"
    steps: ClassVar[tuple[int, ...]] = (1, 2, 3, 10, 50)

    def test_levels_fall_from_noise_to_data(self) -> None:
        """steps + 1 levels of each modality, float64, within [0, 1], never rising, the last one exactly 0."""
        for steps in self.steps:
            levels = self.build().sigmas(steps)
            assert levels.modalities == MODALITIES, f"levels are of {levels.modalities}; give some for both modalities"
            for modality, sigma in levels.items():
                told = f"{steps} steps of {modality}"
                assert tuple(sigma.shape) == (steps + 1,), (
                    f"{told} have levels {tuple(sigma.shape)}, not {(steps + 1,)}"
                )
                assert sigma.dtype == torch.float64, f"{told} are {sigma.dtype}; work in float64"
                assert sigma.device.type == "cpu", f"{told} lie on {sigma.device}; keep them on the CPU"
                assert float(sigma[-1]) == 0, f"{told} end at {float(sigma[-1])}, not 0: the clip would keep some noise"
                assert float(sigma.min()) >= 0, f"{told} leave [0, 1]: {sigma.tolist()}"
                assert float(sigma.max()) <= 1, f"{told} leave [0, 1]: {sigma.tolist()}"
                assert float(sigma[0]) > 0, f"{told} start at 0: nothing would be denoised"
                assert bool((sigma.diff() <= 0).all()), f"{told} rise: {sigma.tolist()}; sort them"

    def test_each_step_moves_something(self) -> None:
        """No step leaves both modalities where they are: it would cost an evaluation for nothing."""
        for steps in self.steps:
            levels = self.build().sigmas(steps)
            moves = torch.stack([sigma.diff().ne(0) for sigma in levels.values()]).any(dim=0)
            idle = (~moves).nonzero().flatten().tolist()
            assert not idle, f"of {steps} steps, {idle} move no modality; choose levels that fall"

    def test_no_steps_are_refused(self) -> None:
        """A run without steps is an error that says so."""
        for steps in (0, -1):
            refuses(lambda steps=steps: self.build().sigmas(steps), f"a run of {steps} steps", ValueError)

    def test_the_network_is_told_levels_in_order(self) -> None:
        """What the network is told lies within [0, 1], rises with sigma, and does not change 0."""
        schedule: Schedule = self.build()
        for modality in MODALITIES:
            grid = sorted({i / 997 for i in range(998)} | {float(s) for s in schedule.sigmas(10)[modality]})
            told = [schedule.told(AV(s, s))[modality] for s in grid]
            beyond = [value for value in told if not 0 <= value <= 1]
            assert not beyond, f"the network is told {beyond[:3]} of {modality} levels in [0, 1]; clamp"
            falls = [grid[i] for i in range(1, len(grid)) if told[i] < told[i - 1]]
            assert not falls, f"around sigma {falls[:3]} the network is told less noise where there is more"
            assert told[0] == 0, f"at sigma 0 the network is told {told[0]}"
            lone = schedule.told(AV.of({modality: 0.5}))
            assert lone.modalities == (modality,), f"told of the {modality} alone, {lone.modalities} come back"

    def test_the_same_steps_have_the_same_levels(self) -> None:
        """Levels depend on the number of steps alone."""
        schedule: Schedule = self.build()
        with global_generators_unused(f"the schedule '{self.found().name}'"):
            first = schedule.sigmas(7)
            schedule.sigmas(3)
            again = schedule.sigmas(7)
        same = all(torch.equal(first[m], again[m]) for m in MODALITIES)
        assert same, "a second call gives other levels; keep nothing between calls"
