"""What this plugin registers: filters. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit.kernel.hookspecs import hookimpl
from ovikit_filters.options import (
    AestheticConfig,
    BlackConfig,
    DuplicateConfig,
    LoudnessConfig,
    MotionConfig,
    SilenceConfig,
    SyncConfig,
)

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.data.filters import Comparing, Filter


def _motion(config: MotionConfig, *, assets: Assets) -> Filter:
    from ovikit_filters.picture import Motion

    return Motion(config.least, config.most, config.every_s)


def _loudness(config: LoudnessConfig, *, assets: Assets) -> Filter:
    from ovikit_filters.sound import Loudness

    return Loudness(config.least_db)


def _silence(config: SilenceConfig, *, assets: Assets) -> Filter:
    from ovikit_filters.sound import Silence

    return Silence(config.most, config.below_db)


def _black(config: BlackConfig, *, assets: Assets) -> Filter:
    from ovikit_filters.picture import Black

    return Black(config.most, config.below)


def _duplicate(config: DuplicateConfig, *, assets: Assets) -> Comparing:
    from ovikit_filters.duplicate import Duplicate

    return Duplicate(config.bits)


def _sync(config: SyncConfig, *, assets: Assets) -> Filter:
    from ovikit_filters.sync import Sync

    return Sync(assets, config.model, config.most_offset, config.least_confidence)


def _aesthetic(config: AestheticConfig, *, assets: Assets) -> Filter:
    from ovikit_filters.aesthetic import Aesthetic

    return Aesthetic(assets, config.model, config.head, config.least, config.frames)


@hookimpl
def ovikit_register_filters() -> Sequence[Component]:
    return (
        Component("motion", MotionConfig, _motion, "still pictures, by optical flow"),
        Component("loudness", LoudnessConfig, _loudness, "clips that are too quiet"),
        Component("silence", SilenceConfig, _silence, "clips that are silent for too long"),
        Component("black", BlackConfig, _black, "clips with black frames"),
        Component("duplicate", DuplicateConfig, _duplicate, "clips that show what an earlier one shows"),
        Component("sync", SyncConfig, _sync, "speech whose lips and sound do not agree (SyncNet)"),
        Component("aesthetic", AestheticConfig, _aesthetic, "pictures that a model finds unattractive (CLIP)"),
    )
