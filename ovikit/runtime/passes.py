"""The velocity field of one batch of clips: a model with its texts bound, and how the passes of a step are run.

Shape legend: b clips, k passes, l text tokens, w width, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ovikit.networks.joint import JointModel
from ovikit.numerics.protocols import Pass
from ovikit.types import AV, Context, KeyValue, Modality, Perturbation, TokenGrid


@dataclass(frozen=True, slots=True)
class BoundNetwork:
    """The velocity field of one batch: the model with its texts, ready for ``sample``.

    contexts:    by conditioning, the text as each tower sees it, with every layer's keys and values
    clean_steps: how many leading latent steps of each modality are given
    batched:     the passes of a step run as one batch; otherwise one after the other, with less memory
    anchors:     latents of silence and of a still picture, of one clip or of all, for passes that are anchored in them
    """

    model: JointModel
    contexts: Mapping[str, AV[Context]]
    grids: AV[TokenGrid]
    dtype: torch.dtype
    clean_steps: AV[int] = AV()
    batched: bool = False
    anchors: AV[Tensor] = AV()
    _joined: dict[tuple[str, ...], AV[Context]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, x: AV[Tensor], told: AV[float], passes: tuple[Pass, ...]) -> Mapping[str, AV[Tensor]]:
        """Velocity of each modality at the noise level ``told``, by the name of the pass."""
        if not self.batched or len(passes) == 1:
            return {run.name: self.evaluate(x, told, run) for run in passes}
        shown = [self._shown(x, told, run) for run in passes]
        wide = AV.of({m: torch.cat([latents[m] for latents, _ in shown]) for m in x.modalities})
        levels = AV.of({m: torch.cat([level[m] for _, level in shown]) for m in x.modalities})
        contexts = self._together(tuple(run.conditioning for run in passes))
        together = self._velocity(wide, levels, contexts, tuple(run.perturbation for run in passes))
        parts = together.map(lambda value: value.chunk(len(passes)))
        return {run.name: parts.map(lambda value, i=i: value[i]) for i, run in enumerate(passes)}

    def evaluate(self, x: AV[Tensor], told: AV[float], run: Pass) -> AV[Tensor]:
        """Velocity of each modality in one pass; that of an anchored one means nothing."""
        latents, levels = self._shown(x, told, run)
        return self._velocity(latents, levels, self.contexts[run.conditioning], run.perturbation)

    def _shown(self, x: AV[Tensor], told: AV[float], run: Pass) -> tuple[AV[Tensor], AV[Tensor]]:
        """The latents and the noise level of each clip, (b,), that a pass is shown."""

        def latents(modality: Modality, value: Tensor) -> Tensor:
            if modality not in run.anchored:
                return value
            anchor = self.anchors.get(modality)
            if anchor is None:
                raise ValueError(f"pass '{run.name}' is anchored in {modality} latents, and none were given")
            return anchor.to(value).expand_as(value)

        def level(modality: Modality, value: Tensor) -> Tensor:
            sigma = 0.0 if modality in run.anchored else told[modality]
            return torch.full((value.shape[0],), sigma, dtype=torch.float64, device=value.device)

        return (
            AV.of({modality: latents(modality, value) for modality, value in x.items()}),
            AV.of({modality: level(modality, value) for modality, value in x.items()}),
        )

    def _velocity(
        self,
        x: AV[Tensor],
        levels: AV[Tensor],
        context: AV[Context],
        perturbation: Perturbation | tuple[Perturbation, ...],
    ) -> AV[Tensor]:
        return self.model(
            x.map(lambda value: value.to(self.dtype)),
            levels,
            context,
            self.grids,
            clean_steps=self.clean_steps,
            perturbation=perturbation,
        )

    def _together(self, conditionings: tuple[str, ...]) -> AV[Context]:
        """The contexts of several conditionings as those of one batch, made once: the text does not change."""
        if conditionings not in self._joined:
            contexts = [self.contexts[name] for name in conditionings]
            self._joined[conditionings] = AV.of(
                {m: joined([one[m] for one in contexts]) for m in contexts[0].modalities}
            )
        return self._joined[conditionings]


def joined(contexts: Sequence[Context]) -> Context:
    """The contexts of several batches as one batch."""
    lengths = [one.lengths for one in contexts if one.lengths is not None]
    layers = zip(*(one.cached for one in contexts), strict=True)
    return Context(
        torch.cat([one.tokens for one in contexts]),
        torch.cat(lengths) if lengths else None,
        tuple(KeyValue(torch.cat([kv.key for kv in kvs]), torch.cat([kv.value for kv in kvs])) for kvs in layers),
    )
