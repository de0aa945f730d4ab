"""What a step draws beside the noise levels: the noise itself, and which clips are given one modality.

Every draw has a generator of its own, made for the step (``ovikit/data/seeds.py``), so that a choice that is switched
off leaves all other draws as they are.

Shape legend: b clips of a batch, c channels, t y x latent steps, rows, columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ovikit.data.seeds import generator_for
from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class Choices:
    """What a recipe chooses of a step's draws.

    text_dropout: probability that a clip is trained without its prompt
    first_frame:  probability that a clip's first frame is given
    same_noise:   the noises of a clip's modalities begin with the same numbers
    given:        probability, by modality, that it is given and the other is learned from it
    """

    text_dropout: float = 0.0
    first_frame: float = 0.0
    same_noise: bool = False
    given: AV[float] = AV(0.0, 0.0)


def draw_noise(shapes: AV[torch.Size], like: Tensor, same: bool, seed: int, *place: int) -> AV[Tensor]:
    """Standard normal noise of these shapes (b, ...), where and in the format that ``like`` is.

    same: each clip has one row of numbers, and either modality takes as many of them, from the first on, as it needs.
          Otherwise the modalities are independent
    """

    def draw(purpose: str, shape: tuple[int, ...]) -> Tensor:
        generator = generator_for(seed, f"noise/{purpose}", *place, device=like.device)
        return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)

    if not same:
        return AV.of({modality: draw(modality, shape) for modality, shape in shapes.items()})
    sizes = shapes.map(lambda shape: prod(shape[1:]))
    rows = draw("both", (next(shapes.values())[0], max(sizes.values())))
    return shapes.zip(sizes, lambda shape, size: rows[:, :size].reshape(shape))


def draw_given(probability: AV[float], size: int, seed: int, *place: int) -> AV[Tensor]:
    """(b,) bool on the CPU, by modality: whether it is given in each of ``size`` clips. Never both of a clip."""
    u = torch.rand(size, generator=generator_for(seed, "given", *place), dtype=torch.float64)
    video = probability["video"]
    return AV(u < video, (u >= video) & (u < video + probability["audio"]))


def draw_first(probability: float, size: int, seed: int, *place: int) -> Tensor:
    """(b,) bool on the CPU: of which of ``size`` clips the first frame is given."""
    return torch.rand(size, generator=generator_for(seed, "first", *place), dtype=torch.float64) < probability


def unlearned_first(mask: Tensor | None, held: Tensor, latents: Tensor) -> Tensor:
    """(b, 1, t, 1, 1): ``mask`` of a video's latents (b, c, t, y, x), without the first step where it is given."""
    steps = torch.arange(latents.shape[2], device=latents.device) == 0
    learned = ~(held.to(latents.device)[:, None] & steps)[:, None, :, None, None]
    return learned if mask is None else learned & mask


def mean_learned(losses: AV[Tensor], given: AV[Tensor]) -> AV[Tensor]:
    """The mean loss of each modality over the clips of which it is learned, 0 where it is of none.

    losses: (b,); given: (b,) bool on the CPU
    """

    def mean(loss: Tensor, held: Tensor) -> Tensor:
        learned = int((~held).sum())  # on the CPU: no step waits for the device
        return loss.masked_fill(held.to(loss.device), 0).sum() / max(1, learned)

    return losses.zip(given, mean)


def learned_mask(given: Tensor, latents: Tensor) -> Tensor:
    """(b, 1, ...) of the latents' dimensions: True where a clip's latents are learned. given: (b,) bool."""
    return (~given).to(latents.device).view(-1, *(1,) * (latents.ndim - 1))
