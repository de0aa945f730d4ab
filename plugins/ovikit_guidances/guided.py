"""The guidance that all of this package's are: pushes that add up, and what changes them.

For each modality, in this order:

1. ``interval`` and ``zero_above`` decide whether the modality is guided at this level. Where no modality has a use for
   a pass, it is not run.
2. ``differ`` (plain, projected or zero-star) makes the difference of each push.
3. The differences, times their weights, are added to the prompt's velocity.
4. ``phi`` brings the standard deviation of the sum back to the prompt's.
5. Above ``zero_above`` the velocity is 0 instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ovikit.numerics.guidance import PROMPT
from ovikit.numerics.protocols import Pass
from ovikit.types import AV, Modality
from ovikit_guidances.differences import Differ, Plain, rescaled
from ovikit_guidances.terms import Push

PROMPT_PASS = Pass(PROMPT, PROMPT)


@dataclass(frozen=True, slots=True)
class Guided:
    """Pushes away from further passes.

    phi:        how far the standard deviation is brought back to the prompt's
    zero_above: the velocity is 0 at higher levels; None: nowhere
    interval:   lowest and highest level at which a modality is guided
    """

    pushes: tuple[Push, ...] = ()
    differ: Differ = field(default_factory=Plain)
    phi: float = 0.0
    zero_above: float | None = None
    interval: AV[tuple[float, float]] = AV((0.0, 1.0), (0.0, 1.0))

    @property
    def evaluations(self) -> int:
        """Network evaluations per field call, the most that a pair of levels asks for."""
        pushing = {push.run for push in self.pushes if any(push.weight(modality) for modality in push.scale.modalities)}
        return 1 + len(pushing)

    def passes(self, sigma: AV[float]) -> tuple[Pass, ...]:
        """The prompt's pass, and those that a modality is pushed away from at its level; each once."""
        used = {push.run for modality in sigma.modalities for push in self._acting(modality, sigma)}
        return (PROMPT_PASS, *dict.fromkeys(push.run for push in self.pushes if push.run in used))

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        """The guided velocity of each modality, in the dtype of the prompt's."""

        def guided(modality: Modality, prompt: Tensor) -> Tensor:
            level = sigma[modality]
            if self._silent(level):
                return torch.zeros_like(prompt)
            found = prompt
            for push in self._acting(modality, sigma):
                other = velocities[push.run.name][modality]
                start, change = self.differ(prompt, other, x[modality], level, push)
                if found is prompt and push.neutral == 1:  # as ``cfg`` writes it, so that both have the same bits
                    found = start + push.scale[modality] * change
                else:
                    found = found + push.weight(modality) * change
            return found if found is prompt or self.phi == 0 else rescaled(found, prompt, self.phi)

        return AV.of({modality: guided(modality, prompt) for modality, prompt in velocities[PROMPT].items()})

    def _silent(self, level: float) -> bool:
        return self.zero_above is not None and level > self.zero_above

    def _acting(self, modality: Modality, sigma: AV[float]) -> Iterator[Push]:
        """The pushes that move a modality at its level. At 0 it is finished: nothing moves it any more."""
        (low, high), level = self.interval[modality], sigma[modality]
        if level == 0 or not low <= level <= high or self._silent(level):
            return iter(())
        pair = len(sigma.modalities) == 2
        return (push for push in self.pushes if push.weight(modality) and (pair or not push.pair))
