"""Classifier-free guidance with a scale per modality, and a perturbed negative pass.

    velocity = negative + scale (prompt - negative)

(Ho & Salimans, arXiv 2207.12598.) The released Ovi reads a negative prompt of each modality in the negative pass and
leaves a layer out of it (skip-layer guidance).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ovikit.numerics.protocols import Pass
from ovikit.types import AV, Perturbation

PROMPT = "prompt"
NEGATIVE = "negative"


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Two passes, ``prompt`` and ``negative``; only the first where every scale is 1, which makes no use of the other.

    scale: of each modality
    skip_layers: layers left out of the negative pass, in both towers
    """

    scale: AV[float]
    skip_layers: tuple[int, ...] = ()

    @property
    def evaluations(self) -> int:
        """Network evaluations per field call."""
        return 1 if all(scale == 1.0 for scale in self.scale.values()) else 2

    def passes(self, sigma: AV[float]) -> tuple[Pass, ...]:
        """The passes at ``sigma``: the same at every level."""
        prompt = Pass(PROMPT, PROMPT)
        if self.evaluations == 1:
            return (prompt,)
        return prompt, Pass(NEGATIVE, NEGATIVE, Perturbation(skip_layers=self.skip_layers))

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        """The guided velocity, from the velocity of each pass; where the latents lie makes no difference."""
        prompt = velocities[PROMPT]
        if self.evaluations == 1:
            return prompt
        guided = prompt.zip(velocities[NEGATIVE], lambda positive, negative: (positive - negative, negative))
        return guided.zip(self.scale, lambda parts, scale: parts[1] + scale * parts[0])
