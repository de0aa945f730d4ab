"""Flow matching: the mean squared error of the velocity at a random noise level.

    loss = E || network((1 - sigma) data + sigma noise, sigma) - (noise - data) ||^2

(Lipman et al., arXiv 2210.02747.) Ovi trains with one sigma ~ U[0, 1] for both modalities, independent noises, and
weights 0.85 for video and 0.15 for audio (arXiv 2510.01284, Eq. 2 and section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ovikit.types import AV


@dataclass(frozen=True, slots=True)
class FlowMatching:
    """The flow-matching objective.

    weights: of each modality in the total
    shared_sigma: one noise level for both modalities of a clip; else one each, independent
    shift: s of sigma = s u / (1 + (s - 1) u), u ~ U[0, 1): above 1, training sees more noise
    """

    weights: AV[float]
    shared_sigma: bool = True
    shift: float = 1.0

    def sample_sigma(self, generator: Generator, batch: int) -> AV[Tensor]:
        """(b,) float32 noise levels on the CPU, drawn from ``generator`` only.

        Two rows are drawn either way, so that sharing the level changes the video's levels and nothing after them.
        """
        uniform = torch.rand((2, batch), generator=generator, dtype=torch.float32)
        sigma = self.shift * uniform / (1 + (self.shift - 1) * uniform)
        return AV(sigma[0], sigma[0] if self.shared_sigma else sigma[1])

    def loss(self, prediction: AV[Tensor], target: AV[Tensor], mask: AV[Tensor] = AV()) -> AV[Tensor]:
        """(b,) per modality: the mean squared error over an item's unmasked latents, in float32 or better.

        mask: (b, t), per latent step, or of a shape that the latents broadcast with; 1 or True where a latent
        counts. A modality without a mask counts whole. An item of which nothing counts has loss 0.
        """
        losses = prediction.zip(target, _squared_error)
        return AV[Tensor].of({modality: _masked_mean(error, mask.get(modality)) for modality, error in losses.items()})


def _squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != target.shape:
        raise ValueError(f"predicted {tuple(prediction.shape)}, wanted {tuple(target.shape)}")
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square()


def _masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """(b,) means of ``error`` (b, c, t, ...) where ``mask`` is not 0."""
    if mask is None:
        return error.flatten(1).mean(dim=1)
    if mask.ndim == 2:
        mask = mask.view(mask.shape[0], 1, mask.shape[1], *(1,) * (error.ndim - 3))
    counted = mask.to(error).expand_as(error).flatten(1)
    return (error.flatten(1) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
