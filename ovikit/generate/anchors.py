"""What anchored passes are shown: the latents of a clip in which nothing happens, made only where guidance asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ovikit.generate.batch import SizedCodecs
from ovikit.generate.orders import passes_of
from ovikit.generate.size import Size
from ovikit.recipe.build import Sampling
from ovikit.runtime.placement import Placement
from ovikit.types import AV, Modality

WHAT: dict[Modality, str] = {"video": "a still picture", "audio": "silence"}


def anchored(sampling: Sampling, modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
    """The modalities that some pass of a run exchanges for nothing happening, video first."""
    asked = {modality for run in passes_of(sampling, modalities) for modality in run.anchored}
    return tuple(modality for modality in modalities if modality in asked)


def encode_anchors(
    sampling: Sampling,
    modalities: tuple[Modality, ...],
    codecs: SizedCodecs,
    sizes: Sequence[Size],
    placement: Placement,
    begun: Callable[[Modality], None] = lambda modality: None,
    told: Callable[[int], None] = lambda done: None,
) -> dict[Size, AV[Tensor]]:
    """By size, the latents of silence and of a still picture, of the modalities that the guidance anchors a pass in.

    begun: told of each modality before it is encoded; told: of the sizes that are done
    """
    found: dict[Size, dict[Modality, Tensor]] = {size: {} for size in sizes}
    for modality in anchored(sampling, modalities):
        begun(modality)
        with placement.codec(codecs.base[modality]):
            for i, size in enumerate(sizes, start=1):
                found[size][modality] = codecs.anchor(modality, size)
                told(i)
    return {size: AV.of(anchors) for size, anchors in found.items()}
