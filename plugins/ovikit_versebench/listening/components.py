"""The evaluators that listen with published networks, as the plugin registers them. Torch-free until one is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit_versebench.listening.options import AestheticsConfig, ClapConfig, PannsConfig, PasstConfig

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec


def _panns(config: PannsConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.listening.tagging import Panns

    return Panns(assets, config.weights, config.rules, config.sample_rate_hz, config.first_s)


def _passt(config: PasstConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.listening.tagging import Passt

    return Passt(assets, config.weights, config.rules)


def _clap(config: ClapConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.listening.clap import ClapScore

    return ClapScore(assets, config.weights, config.rules)


def _aesthetics(config: AestheticsConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.listening.aesthetics import AudioAesthetics

    return AudioAesthetics(assets, config.weights, config.rules)


COMPONENTS = (
    Component("panns", PannsConfig, _panns, "IS, FD and KL by PANNs' Cnn14: what is heard, and is it as in the truth"),
    Component("passt", PasstConfig, _passt, "KL, FD and IS by PaSST: what is heard, and is it as in the truth"),
    Component("clap", ClapConfig, _clap, "CS: does the sound fit its prompt, by CLAP; and its FD"),
    Component("audio-aesthetics", AestheticsConfig, _aesthetics, "CE, CU, PC, PQ: AudioBox's marks for the sound"),
)
