"""The filters and captioners that are installed pass their kinds' contracts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from ovikit.testing import CaptionerContract, FilterContract
from ovikit.testing.clips import CLIP, beating_clip, noisy_clip, silent_clip
from ovikit.types import Clip


def sliding(speed: float) -> Clip:
    """A pattern that slides by ``speed`` of its heights a second."""
    at = torch.arange(CLIP.frames) / CLIP.frame_rate_hz * speed * CLIP.height_px
    place = torch.arange(CLIP.width_px)[None] - at[:, None]
    wave = 127 + 60 * torch.sin(place * 0.5) + 60 * torch.sin(place * 0.21)
    video = wave[:, None, :, None].expand(-1, CLIP.height_px, -1, 3).to(torch.uint8)
    return replace(beating_clip(), video=video.contiguous())


class TestMotion(FilterContract):
    component = "motion"
    options = {"least": 0.1}
    changed = {"least": 0.5, "most": 1.0, "every_s": 0.25}
    requires = ("cv2",)

    @classmethod
    def kept(cls) -> Clip:
        return sliding(0.5)

    @classmethod
    def left_out(cls) -> Clip:
        return sliding(0.0)


class TestLoudness(FilterContract):
    component = "loudness"
    changed = {"least_db": -20.0}
    kept = staticmethod(beating_clip)
    left_out = staticmethod(silent_clip)


class TestSilence(FilterContract):
    component = "silence"
    changed = {"most": 0.1, "below_db": -30.0}
    kept = staticmethod(noisy_clip)
    left_out = staticmethod(silent_clip)


class TestBlack(FilterContract):
    component = "black"
    changed = {"most": 0.5, "below": 0.2}
    kept = staticmethod(noisy_clip)
    left_out = staticmethod(silent_clip)


class TestDuplicate(FilterContract):
    component = "duplicate"
    changed = {"bits": 3}

    @classmethod
    def kept(cls) -> Clip:
        return noisy_clip()

    @classmethod
    def left_out(cls) -> Clip:
        return noisy_clip(seed=1)


class TestSync(FilterContract):
    component = "sync"
    options = {"model": "syncnet.safetensors"}
    changed = {"most_offset": 1, "least_confidence": 2.0}

    @classmethod
    def files(cls, folder: Path) -> None:
        from ovikit_filters.sync import SyncNet

        with torch.random.fork_rng():
            torch.manual_seed(1)
            save_file(SyncNet().state_dict(), folder / "syncnet.safetensors")


class TestAesthetic(FilterContract):
    component = "aesthetic"
    options = {"model": "clip", "head": "head.safetensors", "least": 0.0}
    changed = {"least": 1.0, "frames": 5}
    requires = ("transformers",)

    @classmethod
    def files(cls, folder: Path) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
            patch_size=8, projection_dim=8,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(1)
            CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip")
            save_file({"weight": torch.randn(1, 8), "bias": torch.zeros(1)}, folder / "head.safetensors")


class TestSidecar(CaptionerContract):
    component = "sidecar"
    options = {"otherwise": "drop"}
    changed = {"prompt": "a clip", "otherwise": "name"}

    @classmethod
    def files(cls, folder: Path) -> None:
        (folder / "beats.txt").write_text("two beats")
