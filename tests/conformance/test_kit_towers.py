"""Every tower, codec, conditioner and checkpoint format of large models keeps its contract, at tiny size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from official_audio import TINY_AUDIO_OPTIONS, write_audio_weights
from official_text import TINY_TEXT_OPTIONS, write_text_weights
from official_video import TINY_VIDEO_OPTIONS, write_video_weights
from torch import Tensor

from ovikit.testing import (
    BackboneContract,
    CheckpointFormatContract,
    CodecContract,
    ConditionerContract,
    FusionContract,
)
from ovikit.testing.reference import FLOAT64, assembled
from ovikit.types import AV, ClipSpec
from ovikit_ovi.audio.component import VAE_FILE as AUDIO_FILE
from ovikit_ovi.audio.component import VOCODER_FILE
from ovikit_ovi.text.component import TOKENIZER, WEIGHTS
from ovikit_ovi.video.component import VAE_FILE as VIDEO_FILE

_NORMS = ("norm_q.weight", "norm_k.weight")


class TestWanTower(BackboneContract):
    component = "wan-tower"
    options = {
        "width": 24, "feed_forward_width": 32, "heads": 2, "depth": 2, "text_length": 6, "frequency_width": 16,
    }  # fmt: skip
    keys = (
        "modulation_bias",
        *(
            f"{attention}.{name}"
            for attention in ("self_attn", "context_attn")
            for name in (*(f"{one}.{what}" for one in "qkvo" for what in ("weight", "bias")), *_NORMS)
        ),
        "context_norm.weight", "context_norm.bias", "ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias",
    )  # fmt: skip


class TestWanVae(CodecContract):
    component = "wan-vae"
    options = TINY_VIDEO_OPTIONS
    changed = {"latent_mean": [0.1] * 48, "dtype": "bfloat16"}
    clip = ClipSpec(9 / 24, 32, 48, 24.0, 16000)
    other_clip = ClipSpec(5 / 24, 48, 32, 24.0, 16000)
    tolerance = None
    tolerance_because = "random weights do not know what they encoded"

    @classmethod
    def files(cls, folder: Path) -> None:
        write_video_weights(folder / VIDEO_FILE)


class TestMMAudio(CodecContract):
    component = "mmaudio"
    options = TINY_AUDIO_OPTIONS
    clip = ClipSpec(0.5, 32, 32, 24.0, 16000)
    other_clip = ClipSpec(1.0, 32, 32, 24.0, 16000)
    tolerance = None
    tolerance_because = "random weights do not know what they encoded"

    @classmethod
    def files(cls, folder: Path) -> None:
        write_audio_weights(folder / AUDIO_FILE, folder / VOCODER_FILE)


class TestUmt5(ConditionerContract):
    component = "umt5"
    options = TINY_TEXT_OPTIONS
    changed = {"length": 8, "dtype": "bfloat16"}

    @classmethod
    def files(cls, folder: Path) -> None:
        write_text_weights(folder / WEIGHTS, folder / TOKENIZER)


class TestOwnNames(CheckpointFormatContract):
    component = "ovikit"


class _Ovi(FusionContract):
    component = "ovi"


class TestOviNames(CheckpointFormatContract):
    component = "ovi"

    @classmethod
    def weights(cls) -> Mapping[str, Tensor]:
        towers = AV(TestWanTower.tower("video"), TestWanTower.tower("audio"))
        return assembled(towers, _Ovi.layers(), precision=FLOAT64).state_dict()


class TestWanNames(CheckpointFormatContract):
    component = "wan"

    @classmethod
    def weights(cls) -> Mapping[str, Tensor]:
        tower = TestWanTower.tower("video")
        return assembled(AV(video=tower), [None] * tower.depth, precision=FLOAT64).state_dict()
