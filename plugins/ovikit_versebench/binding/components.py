"""The evaluators that bind picture and sound, as the plugin registers them. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit_versebench.binding.options import ImageBindConfig

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec


def _imagebind(config: ImageBindConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.binding.score import ImageBindScore

    return ImageBindScore(assets, config.weights, config.rules, config.first_s)


COMPONENTS = (
    Component("imagebind", ImageBindConfig, _imagebind, "IB: do picture and sound show the same things, by ImageBind"),
)
