"""The contracts of the evaluators of any model's clips, and of prompt sets of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from sets_kit import LONG, verse_bench

from ovikit.generate.media import write_clip
from ovikit.testing import EvaluatorContract, OverallContract, PromptSetContract
from ovikit.testing.clips import CLIP, beating_clip
from ovikit.types import Clip
from ovikit_versebench.options import NAMES


class TestSoundSignal(EvaluatorContract):
    component = "sound-signal"
    changed = {"clipped_from": 0.5, "silent_below_db": -20.0}
    judged = ("clipped_share",)

    @classmethod
    def better(cls) -> Clip:
        return beating_clip(CLIP, beats=3)

    @classmethod
    def worse(cls) -> Clip:
        clip = cls.better()
        assert clip.audio is not None
        return replace(clip, audio=(100 * clip.audio).clamp(-1, 1))


class TestPictureSignal(EvaluatorContract):
    component = "picture-signal"
    changed = {"frozen_below": 0.5, "black_below": 0.5}
    judged = ("frozen_share", "black_share", "flicker")

    @classmethod
    def better(cls) -> Clip:
        clip = beating_clip(CLIP, beats=3)
        frames, height, width = CLIP.frames, CLIP.height_px, CLIP.width_px
        places = torch.arange(height * width).view(height, width) + torch.arange(frames)[:, None, None]
        grey = (places % 17 * 10 + 60).to(torch.uint8)
        return replace(clip, video=grey[..., None].expand(frames, height, width, 3).contiguous())

    @classmethod
    def worse(cls) -> Clip:
        clip = cls.better()
        assert clip.video is not None
        video = torch.zeros_like(clip.video)
        video[len(video) // 2] = 200
        return replace(clip, video=video)


class TestMotion(EvaluatorContract):
    component = "motion"
    changed = {"every_s": 1.0}


class TestAgreement(EvaluatorContract):
    component = "agreement"
    changed = {"within_s": 0.1, "least": 0.9}
    clip = replace(CLIP, duration_s=3.0, frame_rate_hz=24.0)
    judged = ("av_correlation", "av_offset_ms")

    @classmethod
    def better(cls) -> Clip:
        return beating_clip(cls.clip, beats=3)

    @classmethod
    def worse(cls) -> Clip:
        return beating_clip(cls.clip, beats=3, delay_s=0.2)


class TestVerseBench(PromptSetContract):
    component = "verse-bench"
    options = {"path": "{folder}"}
    changed = {"subsets": ["set3"], "wording": "plain"}
    clip = LONG
    references_looked_at = 5

    @classmethod
    def files(cls, folder: Path) -> None:
        verse_bench(folder)


class TestPromptTable(PromptSetContract):
    component = "prompt-table"
    options = {"path": "{folder}/prompts.csv"}
    changed = {"prompt": "text_prompt", "number": "sample_{:04d}"}
    clip = LONG

    @classmethod
    def files(cls, folder: Path) -> None:
        write_clip(folder / "one.mp4", beating_clip(LONG))
        (folder / "prompts.csv").write_text("text_prompt,video_path\nA lamp,one.mp4\nA door,\n")


class TestVerseBenchOverall(OverallContract):
    component = "verse-bench-overall"
    options = {"metrics": {name: name.lower() for name in NAMES}}
    changed = {"rules": "official", "metrics": {"AS": "another"}}
    means = {name.lower(): 0.5 for name in NAMES}
