"""What this plugin registers: evaluators of any model's clips, and prompt sets of files.

Torch-free until one is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovikit.kernel.component import Component
from ovikit.kernel.hookspecs import hookimpl
from ovikit_versebench.binding.components import COMPONENTS as BINDING
from ovikit_versebench.listening.components import COMPONENTS as LISTENING
from ovikit_versebench.options import (
    AgreementConfig,
    MotionConfig,
    PictureSignalConfig,
    PromptTableConfig,
    SoundSignalConfig,
    VerseBenchConfig,
    VerseBenchOverallConfig,
)
from ovikit_versebench.seeing.components import COMPONENTS as SEEING
from ovikit_versebench.speech.components import COMPONENTS as SPEECH
from ovikit_versebench.sync.components import COMPONENTS as SYNC

if TYPE_CHECKING:
    from ovikit.checkpoints.assets import Assets
    from ovikit.evaluation.protocols import Evaluator, Overall, PromptSet
    from ovikit.types import ClipSpec


def _sound(config: SoundSignalConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.sound import SoundSignal

    return SoundSignal(config.clipped_from, config.silent_below_db)


def _picture(config: PictureSignalConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.picture import PictureSignal

    return PictureSignal(config.frozen_below, config.black_below)


def _motion(config: MotionConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.picture import Motion

    return Motion(config.every_s)


def _agreement(config: AgreementConfig, *, clip: ClipSpec | None, assets: Assets) -> Evaluator:
    from ovikit_versebench.agreement import Agreement

    return Agreement(config.within_s, config.least)


def _verse_bench(config: VerseBenchConfig, *, clip: ClipSpec | None) -> PromptSet:
    from ovikit_versebench.sets import VerseBench

    return VerseBench(clip, Path(config.path).expanduser(), config.subsets, config.wording)


def _table(config: PromptTableConfig, *, clip: ClipSpec | None) -> PromptSet:
    from ovikit.generate.prompts import COLUMNS, Columns
    from ovikit_versebench.sets import KEPT, PromptTable

    prompt = COLUMNS.prompt if config.prompt is None else (config.prompt,)
    columns = Columns(prompt, config.id, config.image, (*KEPT, config.video))
    return PromptTable(clip, Path(config.path).expanduser(), columns, config.video, config.number)


def _overall(config: VerseBenchOverallConfig) -> Overall:
    from ovikit_versebench.overall import VerseBenchOverall

    return VerseBenchOverall(config.rules, config.metrics)


@hookimpl
def ovikit_register_overalls() -> Sequence[Component]:
    return (
        Component(
            "verse-bench-overall",
            VerseBenchOverallConfig,
            _overall,
            "Verse-Bench's total of its metrics",
        ),
    )


@hookimpl
def ovikit_register_prompt_sets() -> Sequence[Component]:
    return (
        Component("verse-bench", VerseBenchConfig, _verse_bench, "Verse-Bench: pictures, prompts and speech, in files"),
        Component(
            "prompt-table", PromptTableConfig, _table, "rows of a CSV, TSV or JSONL file, as JavisBench has them"
        ),
    )


@hookimpl
def ovikit_register_evaluators() -> Sequence[Component]:
    return (
        Component("sound-signal", SoundSignalConfig, _sound, "loudness, peaks, clipping, silence, bandwidth"),
        Component("picture-signal", PictureSignalConfig, _picture, "brightness, sharpness, flicker, frozen, black"),
        Component("motion", MotionConfig, _motion, "how fast the picture's content moves, by optical flow"),
        Component("agreement", AgreementConfig, _agreement, "do picture and sound change at the same moments"),
        *SEEING,
        *SPEECH,
        *SYNC,
        *LISTENING,
        *BINDING,
    )
