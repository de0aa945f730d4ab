"""The parts of the numerics, and what they ask of each other.

One convention: ``sigma`` in [0, 1], 1 is noise; ``x = (1 - sigma) data + sigma noise``; ``velocity = noise - data``
= dx / dsigma. Solvers and schedules keep sigma as Python floats (float64), so that no step waits for the device;
the network is given it as a tensor ``(b,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from torch import Generator, Tensor

from ovikit.types import AV, Modality, Perturbation

S = TypeVar("S")

Field = Callable[[AV[Tensor], AV[float]], AV[Tensor]]
"""``field(x, sigma) -> velocity``: the network with its conditioning bound and its guidance applied."""


class Schedule(Protocol):
    """The noise levels of a sampling run."""

    def sigmas(self, steps: int) -> AV[Tensor]:
        """(steps + 1,) float64 per modality, falling, the last one 0."""
        ...

    def told(self, sigma: AV[float]) -> AV[float]:
        """The noise level that the network is told at ``sigma`` (the released model is told whole timesteps)."""
        ...


class Solver(Protocol[S]):
    """A step of an integrator of dx / dsigma = velocity. Its state is a value: nothing is kept between calls."""

    @property
    def order(self) -> int:
        """Of convergence: the error of a run over the whole path falls as steps ** -order."""
        ...

    def init(self, x: AV[Tensor]) -> S: ...

    def step(
        self, field: Field, x: AV[Tensor], sigma: AV[float], next_sigma: AV[float], state: S
    ) -> tuple[AV[Tensor], S]: ...


@dataclass(frozen=True, slots=True)
class Pass:
    """One network evaluation of a guided step: which conditioning it reads and how it is perturbed.

    anchored: modalities whose latents the pass exchanges for those of nothing happening, at level 0: a still grey
              picture, or silence. What it says of their velocity means nothing
    """

    name: str
    conditioning: str
    perturbation: Perturbation = field(default_factory=Perturbation)
    anchored: tuple[Modality, ...] = ()


class Guidance(Protocol):
    """How the passes of one step make one velocity. ``evaluations``: network evaluations per field call, the most that
    a level asks for.

    Conditionings a recipe run offers: ``prompt`` (the prompt for both towers) and ``negative`` (the negative
    prompt of each modality).
    """

    @property
    def evaluations(self) -> int: ...

    def passes(self, sigma: AV[float]) -> tuple[Pass, ...]: ...

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        """The guided velocity at the latents ``x``, from the velocity of each pass that ``passes(sigma)`` named."""
        ...


@runtime_checkable
class StartsStill(Protocol):
    """A guidance that gives a velocity of 0 at levels above ``zero_above``, unless that is None."""

    zero_above: float | None


class Objective(Protocol):
    """What training minimises. Losses are unreduced: one number per item and modality.

    ``weights``: of each modality in the total. Losses are means over an item's unmasked latents.
    """

    @property
    def weights(self) -> AV[float]: ...

    def sample_sigma(self, generator: Generator, batch: int) -> AV[Tensor]:
        """(b,) float32 noise levels on the CPU, drawn from ``generator`` only."""
        ...

    def loss(self, prediction: AV[Tensor], target: AV[Tensor], mask: AV[Tensor]) -> AV[Tensor]:
        """(b,) per modality. mask: (b, t), per latent step, or broadcasting with the latents; absent: all count."""
        ...


Evaluate = Callable[[AV[Tensor], AV[float], Pass], AV[Tensor]]
"""``evaluate(x, told sigma, pass) -> velocity`` of one pass; it looks the pass's conditioning up."""

Network = Callable[[AV[Tensor], AV[float], tuple[Pass, ...]], Mapping[str, AV[Tensor]]]
"""``network(x, told sigma, passes) -> velocity by the pass's name``: what ``sample`` drives. Whether the passes run one
after the other, as one batch or on several devices is its own affair."""


def in_turn(evaluate: Evaluate) -> Network:
    """The network that runs the passes one after the other."""
    return lambda x, told, passes: {run.name: evaluate(x, told, run) for run in passes}
