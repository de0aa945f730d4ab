"""AudioBox's marks of a sound: how enjoyable, how useful, how complex, how well made.

Read for it: infer.py of facebookresearch/audiobox-aesthetics 0.0.4, audio_box/audio_box_inferencer.py and
calculate_metrics.py of Verse-Bench at commit 5645a09. What differs from them: sounds are resampled by FFmpeg, not by
torchaudio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.needs import device, digest_of, need_asset, network
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.listening.options import Rules
from ovikit_versebench.listening.sounds import QUIETEST, padded, plain, why_unheard
from ovikit_versebench.listening.wavlm import AXES, Aesthetics, AestheticsSize

VERSION = "1"
RATE_HZ = 16000
WINDOW = 10 * RATE_HZ
AT_ONCE = 4
SETS = ("set1", "set2")
MEANINGS = {
    "CE": "content enjoyment: would people like to hear it",
    "CU": "content usefulness: could people make something with it",
    "PC": "production complexity: of how many components it is made",
    "PQ": "production quality: how well it is recorded and mixed",
}
LAYERS = 13
"""That the published network takes into account: what goes into the first layer, and what comes out of twelve."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How people's marks were made numbers that a network learns; by axis."""

    mean: Mapping[str, float]
    std: Mapping[str, float]


class AudioAesthetics:
    """CE, CU, PC, PQ, from 1 to 10: the mean over windows of 10 s, by how much of each is sound.

    official: less complexity is better, as in the total of Verse-Bench; silence is scored.
    fixed:    neither: a complex sound is not a worse one, and silence has nothing to be judged.
    """

    view = View(sample_rate_hz=RATE_HZ, modalities=("audio",))

    def __init__(self, assets: Assets, weights: str, rules: Rules) -> None:
        self._assets, self._weights, self._official = assets, weights, rules == "official"
        page = "https://huggingface.co/facebook/audiobox-aesthetics"
        self.needs = (need_asset(assets, weights, "CC BY 4.0", page),)
        self.version = f"{VERSION}/{rules}/{digest_of(assets, *self.needs)}"
        complexity = "lower" if self._official else "neither"
        self.metrics = tuple(
            MetricSpec(
                axis.lower(), complexity if axis == "PC" else "higher", "", (-100.0, 100.0), self.version,
                f"{MEANINGS[axis]} (AudioBox Aesthetics, people's marks go from 1 to 10)",
            )
            for axis in AXES
        )  # fmt: skip

    @cached_property
    def _network(self) -> tuple[Aesthetics, Scale]:
        return read_aesthetics(self._assets.path(self._weights))

    @torch.inference_mode()
    def features(self, clip: Clip) -> dict[str, Any]:
        why = why_unheard(clip, None if self._official else QUIETEST)
        if why is not None or clip.audio is None:
            return {"why": why}
        windows = clip.audio.float().split(WINDOW)
        heard = torch.tensor([len(window) for window in windows])
        sounds = torch.stack([padded(window, WINDOW) for window in windows])
        net, scale = self._network
        found = [
            net(some.to(device()), lengths.to(device())).cpu()
            for some, lengths in zip(sounds.split(AT_ONCE), heard.split(AT_ONCE), strict=True)
        ]
        marks = (torch.cat(found).double() * heard[:, None]).sum(dim=0) / heard.sum()
        mean, std = (torch.tensor([side[axis] for axis in AXES]).double() for side in (scale.mean, scale.std))
        return {"why": None, "marks": plain(marks * std + mean)}

    def leaves_out(self, item: PromptItem) -> str | None:
        return None if item.truth.get("subset", SETS[0]) in SETS else "AudioBox's marks are of sets 1 and 2"

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if audio["why"] is not None:
            return {metric.name: Unscored(audio["why"]) for metric in self.metrics}
        return {metric.name: mark for metric, mark in zip(self.metrics, audio["marks"], strict=True)}


def read_aesthetics(path: Path) -> tuple[Aesthetics, Scale]:
    """The network of a folder with model.safetensors and config.json, or of a file checkpoint.pt, and its scale.

    UserError for what is neither, or another network than the published one.
    """
    if path.is_dir() and (path / "model.safetensors").is_file():
        file, within, told = path / "model.safetensors", None, _json(path / "config.json")
    else:
        file, within = path / "checkpoint.pt" if path.is_dir() else path, "state_dict"
        told = _told(file)
    size, scale = _size(told, str(file)), _scale(told, str(file))
    return network(lambda: Aesthetics(size), file, within=within, named=_named), scale


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): value for name, value in state.items()}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("there is no config.json beside the weights", str(path.parent)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("this is no JSON", str(path)) from error
    return found if isinstance(found, dict) else {}


def _told(path: Path) -> Mapping[str, Any]:
    """What a checkpoint says of its network and its scale."""
    if not path.is_file():
        hint = "it should be a folder with model.safetensors and config.json, or with checkpoint.pt"
        raise UserError("there are no weights of AudioBox Aesthetics here", str(path.parent), hint)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return {**found["model_cfg"], "target_transform": found["target_transform"]}
    except Exception as error:  # of a file that is damaged or something else, torch raises anything
        what = "this is no checkpoint of AudioBox Aesthetics that can be read without running code"
        raise UserError(what, str(path), "take model.safetensors and config.json in its place") from error


def _size(told: Mapping[str, Any], where: str) -> AestheticsSize:
    wanted = {"nth_layer": LAYERS, "use_weighted_layer_sum": True, "proj_act_fn": "gelu", "output_dim": 1}
    for name, value in wanted.items():
        if told.get(name, value) != value:
            raise UserError(f"this network has {name} {told[name]!r}, the published one {value!r}", where)
    return AestheticsSize(
        head_layers=int(told.get("proj_num_layer", 1)),
        head_norm=bool(told.get("proj_ln", False)),
        head_dropout=bool(told.get("proj_dropout", 0)),
        scaled=bool(told.get("normalize_embed", True)),
    )


def _scale(told: Mapping[str, Any], where: str) -> Scale:
    try:
        both = told["target_transform"]
        return Scale(*({axis: float(both[axis][what]) for axis in AXES} for what in ("mean", "std")))
    except (KeyError, TypeError, ValueError):
        raise UserError("it does not say how its marks are scaled (target_transform)", where) from None
