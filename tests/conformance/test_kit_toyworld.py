"""Every part of the toy world, and the folder of videos, keep the contract of their kinds."""

from __future__ import annotations

from pathlib import Path

from ovikit.data.prepare import Preparing
from ovikit.evaluation.protocols import PromptItem
from ovikit.generate.media import write_clip
from ovikit.recipe.load import load_recipe
from ovikit.testing import (
    CodecContract,
    ConditionerContract,
    DatasetContract,
    EvaluatorContract,
    PromptSetContract,
)
from ovikit.testing.clips import beating_clip
from ovikit.types import Clip, ClipSpec

TINY = Path(__file__).parents[2] / "recipes/tiny/ovi.yaml"
CLIP = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)


class TestToyWorld(DatasetContract):
    component = "toyworld"
    options = {"clips": 4}
    changed = {"seed": 1, "clips": 5, "kinds": ["flash"]}
    clip = CLIP


class TestFolder(DatasetContract):
    component = "folder"
    options = {"path": "{folder}"}
    changed = {"windows": 1, "prompt": "beats"}
    clip = ClipSpec(duration_s=0.5, height_px=32, width_px=32, frame_rate_hz=8.0, sample_rate_hz=16000)

    @classmethod
    def files(cls, folder: Path) -> None:
        for beats in (2, 4):
            write_clip(folder / f"{beats} beats.mp4", beating_clip(beats=beats))


class TestPrepared(DatasetContract):
    component = "prepared"
    options = {"path": "{folder}/set"}
    changed = {"path": "{folder}/other"}
    clip = ClipSpec(duration_s=0.5, height_px=32, width_px=32, frame_rate_hz=8.0, sample_rate_hz=16000)

    @classmethod
    def files(cls, folder: Path) -> None:
        recipe = folder / "recipe.yaml"
        form = "{duration_s: 0.5, height_px: 32, width_px: 32, frame_rate_hz: 8.0, sample_rate_hz: 16000}"
        parts = "{codecs: {video: {type: block-dct, block_px: 16, channels: 32}, audio: {type: mel-dct}}}"
        recipe.write_text(f"extends: {TINY}\nname: kit\nclip: {form}\nmodel: {parts}\n")
        for name, beats in (("set", 2), ("other", 4)):
            write_clip(folder / f"{name}-files" / f"{beats} beats.mp4", beating_clip(beats=beats))
            Preparing(load_recipe(recipe), folder / f"{name}-files", folder / name).run()


class TestBlockDct(CodecContract):
    component = "block-dct"
    options = {"block_px": 16, "channels": 32}
    changed = {"channels": 16, "block_px": 32, "emphasis": 0.5}
    tolerance = 0.2  # its picture is cut off at black and white


class TestMelDct(CodecContract):
    component = "mel-dct"
    options = {"iterations": 8}
    changed = {"channels": 8, "floor": -2.0, "emphasis": 0.5, "iterations": 4}
    noise = 5e-5  # which is small where phases start, and grows with each iteration
    tolerance = 0.6  # Griffin-Lim finds no waveform that has the very spectrogram


class TestHashedWords(ConditionerContract):
    component = "hashed-words"
    changed = {"width": 16, "length": 4, "seed": 1}


class TestHeldOut(PromptSetContract):
    component = "toyworld-heldout"
    options = {"count": 5}
    clip = CLIP


class TestToyOnsets(EvaluatorContract):
    component = "toy-onsets"
    clip = CLIP
    judged = ("onset_f1",)

    @classmethod
    def better(cls) -> Clip:
        return beating_clip(CLIP, beats=3)

    @classmethod
    def worse(cls) -> Clip:
        return beating_clip(CLIP, beats=3, delay_s=0.3)


class TestToyColourPitch(EvaluatorContract):
    component = "toy-colour-pitch"
    clip = CLIP


class TestToyCount(EvaluatorContract):
    component = "toy-count"
    clip = CLIP
    item = PromptItem("0", "three flashes", {"count": 3})
