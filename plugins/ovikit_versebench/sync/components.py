"""The evaluators of synchrony, as the plugin registers them. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit_versebench.sync.options import AvOffsetConfig, DesyncConfig, LipSyncConfig

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec


def _av_offset(config: AvOffsetConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.sync.offsets import AvOffset

    return AvOffset(assets, config.weights, config.rules)


def _desync(config: DesyncConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.sync.offsets import Desync

    return Desync(assets, config.weights, config.rules)


def _lip_sync(config: LipSyncConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.sync.lips import LipSync

    return LipSync(assets, config)


COMPONENTS = (
    Component("av-offset", AvOffsetConfig, _av_offset, "AV-A: the sound's offset by Synchformer, first 5 s"),
    Component("desync", DesyncConfig, _desync, "DeSync: the sound's offset by Synchformer, both ends of a clip"),
    Component("lip-sync", LipSyncConfig, _lip_sync, "LSE-C, LSE-D: lips and speech by SyncNet"),
)
