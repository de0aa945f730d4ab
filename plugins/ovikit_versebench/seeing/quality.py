"""AS of Verse-Bench: how well frames are liked by three networks, and the three marks themselves.

Read for it: calculate_metrics.py of Verse-Bench at 5645a09, predict_one_image.py of IIGROUP/MANIQA, pyiqa 0.1.16 and
aesthetic_predictor_v2_5 2024.12.18.1. The tool's MANIQA looks at 20 squares drawn anew each time, so that its AS is
never twice the same; under rules ``official`` they are drawn by a seed here.

Shape legend: f frames, y and x pixels, w width of SigLIP's embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import device, digest_of, need_asset, network
from ovikit.evaluation.protocols import MetricSpec, Need, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.pieces import covering
from ovikit_versebench.seeing.maniqa import Maniqa
from ovikit_versebench.seeing.musiq import Musiq
from ovikit_versebench.seeing.options import Mark, PictureQualityConfig
from ovikit_versebench.seeing.published import AT_ONCE, Form, read_form, read_published

VERSION = "1"
SQUARES = 20
"""That MANIQA's own script draws of a picture."""
NAMES: Mapping[Mark, str] = {"aesthetic": "aesthetic_v25", "musiq": "musiq", "maniqa": "maniqa"}
WORTH: Mapping[Mark, float] = {"aesthetic": 10.0, "musiq": 100.0, "maniqa": 1.0}
"""What each mark is divided by in AS."""
ELSEWHERE = ("text_model.", "logit_")
"""Names in SigLIP's file that have nothing to do with pictures."""


class PictureQuality:
    """``as``, and of each of its marks the mean over frames; with fewer marks than three there is no ``as``."""

    view = View(modalities=("video",))

    def __init__(self, assets: Assets, config: PictureQualityConfig) -> None:
        self._assets, self._config = assets, config
        self._marks: Sequence[Mark] = [mark for mark in NAMES if mark in config.marks]
        self.needs = tuple(need for mark in self._marks for need in self._needs(mark))
        official = config.rules == "official"
        told = "official" if official else f"fixed/{config.every_s:g}"
        self.version = f"{VERSION}/{told}/{'+'.join(self._marks)}/{digest_of(assets, *self.needs)}"
        squares = "20 squares drawn by a seed" if official else "squares that cover the picture"
        infinite = math.inf
        specs = {
            "aesthetic": ((-infinite, infinite), "how beautiful frames are, about 1 to 10 (aesthetic predictor v2.5)"),
            "musiq": ((-infinite, infinite), "how good frames look, about 0 to 100 (MUSIQ, KonIQ-10k)"),
            "maniqa": ((0.0, infinite), f"how good frames look, about 0 to 1 (MANIQA, KonIQ-10k), of {squares}"),
        }
        found = [
            MetricSpec(NAMES[mark], "higher", "", specs[mark][0], self.version, specs[mark][1]) for mark in self._marks
        ]
        if len(self._marks) == len(NAMES):
            summary = "mean of aesthetic_v25 / 10, musiq / 100 and maniqa"
            found.insert(0, MetricSpec("as", "higher", "", (-infinite, infinite), self.version, summary))
        self.metrics = tuple(found)

    def _needs(self, mark: Mark) -> tuple[Need, ...]:
        config, assets = self._config, self._assets
        if mark == "musiq":
            return (
                need_asset(
                    assets, config.musiq, "code Apache-2.0 (MUSIQ); conversion by pyiqa, not for commercial use",
                    "https://huggingface.co/chaofengc/IQA-PyTorch-Weights",
                ),
            )  # fmt: skip
        if mark == "maniqa":
            source = "https://github.com/IIGROUP/MANIQA/releases/tag/Koniq10k"
            return (need_asset(assets, config.maniqa, "Apache-2.0 (MANIQA)", source),)
        return (
            need_asset(assets, config.siglip, "Apache-2.0 (SigLIP)",
                       "https://huggingface.co/google/siglip-so400m-patch14-384"),
            need_asset(assets, config.aesthetic, "AGPL-3.0 (aesthetic predictor v2.5)",
                       "https://github.com/discus0434/aesthetic-predictor-v2-5"),
        )  # fmt: skip

    @cached_property
    def _musiq(self) -> Musiq:
        return network(Musiq, self._assets.path(self._config.musiq))

    @cached_property
    def _maniqa(self) -> Maniqa:
        return network(Maniqa, self._assets.path(self._config.maniqa))

    @cached_property
    def _siglip(self) -> Any:
        folder = self._assets.path(self._config.siglip)
        return read_published("SiglipVisionModel", folder, of_no_use=ELSEWHERE)

    @cached_property
    def _head(self) -> nn.Module:
        width = self._siglip.config.hidden_size
        return network(lambda: AestheticHead(width), self._assets.path(self._config.aesthetic))

    @cached_property
    def _form(self) -> Form:
        return read_form(self._assets.path(self._config.siglip))

    def features(self, clip: Clip) -> dict[str, Any]:
        if why := self._why_unseen(clip):
            return {"why": why}
        assert clip.video is not None
        official = self._config.rules == "official"
        step = 1 if official else max(1, round(self._config.every_s * clip.frame_rate_hz))
        frames = clip.video[::step]
        grade = {"aesthetic": self._beauty, "musiq": self._look, "maniqa": self._squares}
        return {"why": None} | {mark: round(float(grade[mark](frames).mean()), 7) for mark in self._marks}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if video["why"] is not None:
            return {spec.name: Unscored(video["why"]) for spec in self.metrics}
        found: dict[str, float | Unscored] = {NAMES[mark]: video[mark] for mark in self._marks}
        if len(self._marks) == len(NAMES):
            found["as"] = sum(video[mark] / WORTH[mark] for mark in self._marks) / len(NAMES)
        return found

    def _why_unseen(self, clip: Clip) -> str | None:
        if clip.video is None or len(clip.video) == 0:
            return "no picture"
        if "maniqa" not in self._marks:
            return None
        least = self._maniqa.size.image_px + (self._config.rules == "official")  # the tool fails at just its side
        height, width = clip.video.shape[1:3]
        if min(height, width) < least:
            return f"its picture of {width} x {height} is smaller than MANIQA's, {least} pixels"
        return None

    @torch.inference_mode()
    def _beauty(self, frames: Tensor) -> Tensor:
        """(f,) marks of the aesthetic predictor."""
        found: list[Tensor] = []
        for pixels in self._form.batches(frames, Image.Resampling.BICUBIC):
            embedded = self._siglip(pixel_values=pixels).pooler_output
            found.append(self._head(embedded / embedded.norm(dim=-1, keepdim=True))[:, 0].cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def _look(self, frames: Tensor) -> Tensor:
        """(f,) marks of MUSIQ. One after the other: a frame of 720p is a thousand patches."""
        return torch.cat([self._musiq(_pixels(one[None])).cpu() for one in frames])

    @torch.inference_mode()
    def _squares(self, frames: Tensor) -> Tensor:
        """(f,) marks of MANIQA, means over squares."""
        side = self._maniqa.size.image_px
        places = self._places(len(frames), *frames.shape[1:3], side)
        found: list[Tensor] = []
        for frame, corners in zip(frames, places, strict=True):
            cut = torch.stack([frame[top : top + side, left : left + side] for top, left in corners])
            found.append(torch.cat([self._maniqa(_pixels(part)).cpu() for part in cut.split(AT_ONCE)]).mean())
        return torch.stack(found)

    def _places(self, frames: int, height: int, width: int, side: int) -> list[list[tuple[int, int]]]:
        """Top and left of the squares of each frame."""
        if self._config.rules == "fixed":
            return [[(top, left) for top in covering(height, side) for left in covering(width, side)]] * frames
        drawn = np.random.default_rng(0)
        return [
            [(int(drawn.integers(height - side)), int(drawn.integers(width - side))) for _ in range(SQUARES)]
            for _ in range(frames)
        ]


class AestheticHead(nn.Module):
    """(b, 1) marks of embeddings (b, w) of length 1. In training some of each layer's outputs were left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 1024, 128, 64, 16, 1)
        layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
        # the names count the dropout between them
        self.scoring_head = nn.ModuleDict({str(2 * i): layer for i, layer in enumerate(layers)})

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.scoring_head.values():
            x = layer(x)
        return x


def _pixels(frames: Tensor) -> Tensor:
    """(b, 3, y, x) in [0, 1] of frames uint8 (b, y, x, 3)."""
    return frames.permute(0, 3, 1, 2).to(device()).float() / 255
