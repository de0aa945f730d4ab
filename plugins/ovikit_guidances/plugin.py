"""What this plugin registers: published guidances. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit.kernel.hookspecs import hookimpl
from ovikit_guidances.options import (
    ApgConfig,
    CfgZeroStarConfig,
    ComposedConfig,
    IntervalConfig,
    ModalityIsolatingConfig,
    RescaleConfig,
    SkipLayerConfig,
    StgConfig,
    SyncCfgConfig,
)

if TYPE_CHECKING:
    from ovikit_guidances.guided import Guided

WithTerm = SkipLayerConfig | StgConfig | ModalityIsolatingConfig | SyncCfgConfig
WithModifier = ApgConfig | CfgZeroStarConfig | RescaleConfig | IntervalConfig


def _single(config: WithTerm | WithModifier) -> Guided:
    from ovikit_guidances.compose import compose

    return compose([config] if config.cfg is None else [config.cfg, config])


def _composed(config: ComposedConfig) -> Guided:
    from ovikit_guidances.compose import compose

    return compose(config.parts)


@hookimpl
def ovikit_register_guidances() -> Sequence[Component]:
    return (
        Component("skip-layer", SkipLayerConfig, _single, "away from a pass with the prompt that skips layers"),
        Component("stg", StgConfig, _single, "spatio-temporal guidance: away from a pass without self-attention"),
        Component(
            "modality-isolating",
            ModalityIsolatingConfig,
            _single,
            "away from towers that do not meet (LTX-2)",
        ),
        Component("sync-cfg", SyncCfgConfig, _single, "away from silence and from a still picture (Harmony)"),
        Component("apg", ApgConfig, _single, "cfg with the part along the prediction scaled down, and a threshold"),
        Component("cfg-zero-star", CfgZeroStarConfig, _single, "cfg whose negative pass is scaled to fit (CFG-Zero*)"),
        Component("rescale", RescaleConfig, _single, "cfg whose standard deviation is brought back to the prompt's"),
        Component("interval", IntervalConfig, _single, "cfg at some noise levels only"),
        Component("composed", ComposedConfig, _composed, "several guidances: terms add up, modifiers act on them"),
    )
