"""The denoising loop: passes -> field -> combine -> step -> clean steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ovikit.numerics.protocols import Guidance, Network, Schedule, Solver
from ovikit.types import AV, Modality

S = TypeVar("S")

Callback = Callable[[int, int, AV[Tensor]], None]
"""``callback(done, steps, x)``, after each step."""

_OTHER_STREAM = 0x9E3779B97F4A7C15
"""Added to the seed of the audio noise where it is to differ: far from the seeds that neighbouring clips get."""


def draw_noise(shapes: AV[tuple[int, ...]], seed: int, *, same_seed: bool = True) -> AV[Tensor]:
    """Standard normal latents of these shapes, float32, on the CPU.

    Each modality has its own generator. The released code gives both the same seed, so that the two noises begin with
    the same numbers; ``same_seed=False`` makes them independent.
    """

    def draw(modality: Modality, shape: tuple[int, ...]) -> Tensor:
        apart = modality == "audio" and not same_seed
        generator = torch.Generator("cpu").manual_seed((seed + _OTHER_STREAM) % 2**63 if apart else seed)
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    return AV[Tensor].of({modality: draw(modality, shape) for modality, shape in shapes.items()})


def hold(x: AV[Tensor], clean: AV[Tensor]) -> AV[Tensor]:
    """``x`` with the latent steps of ``clean``, (b, c, k, ...), written over its first k: a new tensor."""

    def write(modality: Modality, value: Tensor) -> Tensor:
        start = clean.get(modality)
        if start is None:
            return value
        return torch.cat([start.to(value), value[:, :, start.shape[2] :]], dim=2)

    return AV[Tensor].of({modality: write(modality, value) for modality, value in x.items()})


def _widened(velocity: Tensor, latents: Tensor) -> Tensor:
    return velocity.to(torch.promote_types(velocity.dtype, latents.dtype))


def _at(levels: AV[Tensor], step: int) -> AV[float]:
    return levels.map(lambda sigmas: float(sigmas[step]))  # on the CPU: no step waits for the device


def sample(
    network: Network,
    noise: AV[Tensor],
    schedule: Schedule,
    solver: Solver[S],
    guidance: Guidance,
    steps: int,
    *,
    clean: AV[Tensor] = AV(),
    callback: Callback | None = None,
) -> AV[Tensor]:
    """The latents that ``noise`` denoises to, in the dtype of the noise.

    network:  ``network(x, told sigma, passes)``; its velocities are guided in their own dtype or that of the noise,
              whichever is wider (a guidance scale would magnify bfloat16's rounding), and stepped in the noise's
    noise:    the latents at sigma 1; a modality that is absent takes no part
    clean:    (b, c, k, ...) latent steps that are given. They are written over the first k steps before each
              evaluation and once more at the end (released code: the first frame)
    callback: told of each step when it is done

    Gradients are recorded unless the caller switches them off. Draws no random numbers.
    """
    whole = schedule.sigmas(steps)
    levels = AV[Tensor].of({modality: whole[modality] for modality in noise.modalities})

    def field(x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        held, told = hold(x, clean), schedule.told(sigma)
        velocities = network(held, told, guidance.passes(sigma))
        wide = {name: velocity.zip(x, _widened) for name, velocity in velocities.items()}
        return guidance.combine(wide, held, sigma)

    x, state = hold(noise, clean), solver.init(noise)
    for step in range(steps):
        x, state = solver.step(field, x, _at(levels, step), _at(levels, step + 1), state)
        x = hold(x, clean)
        if callback is not None:
            callback(step + 1, steps, x)
    return x
