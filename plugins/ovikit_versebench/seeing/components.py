"""The evaluators that see with published networks, as the plugin registers them. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit_versebench.seeing.options import FlowMagnitudeConfig, IdentityConfig, PictureQualityConfig

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec


def _identity(config: IdentityConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.seeing.identity import Identity

    return Identity(assets, config.weights, config.rules, config.every_s)


def _flow_magnitude(config: FlowMagnitudeConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.seeing.flow import FlowMagnitude

    return FlowMagnitude(assets, config.weights, config.rules, config.every_s)


def _picture_quality(config: PictureQualityConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.seeing.quality import PictureQuality

    return PictureQuality(assets, config)


COMPONENTS = (
    Component("identity", IdentityConfig, _identity, "ID: do frames stay like the reference picture, by DINOv3"),
    Component("flow-magnitude", FlowMagnitudeConfig, _flow_magnitude, "MS: how much moves, by RAFT's optical flow"),
    Component(
        "picture-quality",
        PictureQualityConfig,
        _picture_quality,
        "AS: how well frames are liked by the aesthetic predictor, MUSIQ and MANIQA",
    ),
)
