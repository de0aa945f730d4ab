"""Whether the frames of a clip show what its reference picture does: cosines of DINOv3's features.

The published tool takes the token with index -2, which is a patch in the lower right of the picture; rules ``fixed``
take the class token, which is of all of it. The network and what its pictures are brought to are those of the folder
of weights, in the layout that transformers reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import digest_of, need_asset
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.image import read_image
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.seeing.options import Rules
from ovikit_versebench.seeing.published import Form, read_form, read_published

VERSION = "1"


class Identity:
    """``id``: the mean cosine of a clip's frames with its reference picture."""

    view = View(longest_px=1024, modalities=("video",))

    def __init__(self, assets: Assets, weights: str, rules: Rules, every_s: float) -> None:
        self._assets, self._weights, self._rules, self._every_s = assets, weights, rules, every_s
        self.needs = (
            need_asset(
                assets, weights, "DINOv3 License (Meta)",
                "https://huggingface.co/facebook/dinov3-vitl16-pretrain-lvd1689m",
            ),
        )  # fmt: skip
        self.version = f"{VERSION}/{rules}/{every_s}/{digest_of(assets, *self.needs)}"
        token = "class token" if rules == "fixed" else "a patch's token, as the tool has it"
        self.metrics = (
            MetricSpec(
                "id", "higher", "", (-1.0, 1.0), self.version,
                f"cosine of the frames with the reference picture (DINOv3, {token})",
            ),
        )  # fmt: skip
        self._pictures: dict[Path, Tensor] = {}

    @cached_property
    def _folder(self) -> Path:
        return self._assets.path(self._weights)

    @cached_property
    def _network(self) -> Any:
        return read_published("AutoModel", self._folder)

    @cached_property
    def _form(self) -> Form:
        return read_form(self._folder)

    @torch.inference_mode()
    def _see(self, pictures: Tensor) -> Tensor:
        """(n, width) of unit length, of pictures uint8 (n, height, width, 3)."""
        index = 0 if self._rules == "fixed" else -2
        found = [
            torch.nn.functional.normalize(self._network(pixel_values=pixels).last_hidden_state[:, index], dim=-1).cpu()
            for pixels in self._form.batches(pictures, Image.Resampling.BILINEAR)
        ]
        return torch.cat(found)

    def leaves_out(self, item: PromptItem) -> str | None:
        return None if item.image is not None else "it has no reference picture"

    def features(self, clip: Clip) -> dict[str, Any]:
        """The mean of the frames' directions: its product with the picture's is the mean of their cosines."""
        if clip.video is None or len(clip.video) == 0:
            return {"why": "no picture"}
        step = max(1, round(self._every_s * clip.frame_rate_hz)) if self._rules == "fixed" else 1
        mean = self._see(clip.video[::step]).mean(dim=0)
        return {"why": None, "direction": [round(float(x), 7) for x in mean]}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if video["why"] is not None:
            return {"id": Unscored(video["why"])}
        if item.image is None:
            return {"id": Unscored("it has no reference picture")}
        if item.image not in self._pictures:
            self._pictures[item.image] = self._see(read_image(item.image).pixels[None])[0]
        cosine = float(torch.tensor(video["direction"]) @ self._pictures[item.image])
        return {"id": max(-1.0, min(1.0, cosine))}
