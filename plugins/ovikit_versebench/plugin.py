"""What this plugin registers: evaluators of any model's clips. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit.kernel.hookspecs import hookimpl
from ovikit_versebench.options import AgreementConfig, MotionConfig, PictureSignalConfig, SoundSignalConfig

if TYPE_CHECKING:
    from ovikit.evaluation.protocols import Evaluator
    from ovikit.types import ClipSpec


def _sound(config: SoundSignalConfig, *, clip: ClipSpec | None) -> Evaluator:
    from ovikit_versebench.sound import SoundSignal

    return SoundSignal(config.clipped_from, config.silent_below_db)


def _picture(config: PictureSignalConfig, *, clip: ClipSpec | None) -> Evaluator:
    from ovikit_versebench.picture import PictureSignal

    return PictureSignal(config.frozen_below, config.black_below)


def _motion(config: MotionConfig, *, clip: ClipSpec | None) -> Evaluator:
    from ovikit_versebench.picture import Motion

    return Motion(config.every_s)


def _agreement(config: AgreementConfig, *, clip: ClipSpec | None) -> Evaluator:
    from ovikit_versebench.agreement import Agreement

    return Agreement(config.within_s, config.least)


@hookimpl
def ovikit_register_evaluators() -> Sequence[Component]:
    return (
        Component("sound-signal", SoundSignalConfig, _sound, "loudness, peaks, clipping, silence, bandwidth"),
        Component("picture-signal", PictureSignalConfig, _picture, "brightness, sharpness, flicker, frozen, black"),
        Component("motion", MotionConfig, _motion, "how fast the picture's content moves, by optical flow"),
        Component("agreement", AgreementConfig, _agreement, "do picture and sound change at the same moments"),
    )
