"""How much people would like a picture, by a linear layer over CLIP's image embedding (LAION's predictors are such)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.state import read_state
from ovikit.data.filters import Verdict
from ovikit.errors import UserError
from ovikit.extras import require
from ovikit.types import Clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on."""


class Aesthetic:
    """Leaves out clips whose mean score over ``frames`` frames is below ``least``."""

    def __init__(self, assets: Assets, model: str, head: str, least: float, frames: int) -> None:
        self.least, self.frames = least, frames
        self._folder, self._head = assets.path(model), assets.path(head)
        self._digests = assets.digest_of(self._folder), assets.digest_of(self._head)

    @cached_property
    def _network(self) -> Any:
        library = require("transformers", extra="ovi")
        try:
            return library.CLIPVisionModelWithProjection.from_pretrained(
                self._folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"this is not the folder of a CLIP model ({reason})", str(self._folder)) from error

    @cached_property
    def _linear(self) -> tuple[Tensor, Tensor]:
        tensors, _ = read_state(self._head)
        width = int(self._network.config.projection_dim)
        if set(tensors) != {"weight", "bias"} or tuple(tensors["weight"].shape) != (1, width):
            raise UserError(f"this file has to hold a weight (1, {width}) and a bias (1,)", str(self._head))
        return tensors["weight"].float(), tensors["bias"].float()

    @torch.no_grad()
    def judge(self, clip: Clip) -> Verdict:
        if clip.video is None:
            return Verdict(why="it has no picture")
        side = int(self._network.config.image_size)
        at = (torch.arange(self.frames) + 0.5) / self.frames * len(clip.video)
        embedded = self._network(pixel_values=_prepared(clip.video[at.long()], side)).image_embeds
        weight, bias = self._linear
        found = round(float(F.linear(F.normalize(embedded, dim=-1), weight, bias).mean()), 4)
        why = f"its aesthetic score is {found:.2f}, below {self.least:g}" if found < self.least else None
        return Verdict({"aesthetic": found}, why)

    def fingerprint(self) -> str:
        return f"aesthetic/1/{'/'.join(self._digests)}/{self.least}/{self.frames}"


def _prepared(video: Tensor, side: int) -> Tensor:
    """(frames, 3, side, side): the shorter side resized, the middle kept, normalised, as CLIP's images are."""
    pixels = video.permute(0, 3, 1, 2).float()
    scale = side / min(pixels.shape[2:])
    size = [max(side, round(length * scale)) for length in pixels.shape[2:]]
    pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255) / 255
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = pixels[:, :, top : top + side, left : left + side]
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
