"""A golden file in memory: tensors, configurations and cases, and the model that its weights make.

Layout: ``weights.<official name>``, ``cases.<case>.<tensor>``; ``video_config``, ``audio_config`` and ``cases`` as JSON
in the metadata. Video latents are ``(c, t, y, x)``, audio latents ``(t, c)``, texts ``(l, c)`` before padding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.checkpoints.keymap import UnmappedError
from ovikit.checkpoints.load import load_into, parse_json_metadata, read_tensors
from ovikit.errors import UserError
from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel
from ovikit.types import AV, MODALITIES, Modality, Text, TokenGrid
from ovikit_ovi.formats import ovi_format
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

_OUTPUT = re.compile(r"cases\..+\.out_(video|audio)")
SECONDS_PER_STEP = 1.0  # index-based positions do not read the time, but a grid has one


@dataclass(frozen=True)
class Golden:
    """One golden file."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Golden:
        if not path.is_file():
            raise UserError("there is no such file", str(path))
        tensors, metadata = read_tensors(path)
        return cls(path, tensors, metadata)

    def cases(self) -> dict[str, dict[str, Any]]:
        """The options of each case."""
        found = parse_json_metadata(self.metadata, "cases", str(self.path))
        wrong = [name for name, options in found.items() if not isinstance(options, dict)]
        if wrong:
            raise UserError(f"the options of case {wrong[0]} are not a mapping", str(self.path))
        return {name: dict(options) for name, options in found.items() if isinstance(options, dict)}

    def recorded_cases(self) -> list[str]:
        """The cases that tensors were recorded for, in the order of their names; they need not have options."""
        return sorted({name.split(".", 1)[1].rsplit(".", 1)[0] for name in self.tensors if name.startswith("cases.")})

    def weights(self) -> dict[str, Tensor]:
        """The recorded weights under their official names."""
        mark = "weights."
        return {name.removeprefix(mark): value for name, value in self.tensors.items() if name.startswith(mark)}

    def refuse_uncompared(self, compared: Collection[tuple[str, str]]) -> None:
        """UserError where nothing was compared, or an output was recorded that no replay came to."""
        recorded = {tuple(name.split(".", 1)[1].rsplit(".", 1)) for name in self.tensors if _OUTPUT.fullmatch(name)}
        left = sorted(recorded - set(compared))
        if left:
            case, output = left[0]
            raise UserError(f"{output} of case {case} was recorded without what makes it", str(self.path))
        if not compared:
            raise UserError("there is nothing in this file to compare with", str(self.path))

    def option(self, case: str, name: str) -> Any:
        """An option that a case must have."""
        options = self.cases().get(case, {})
        if name not in options:
            raise UserError(f"case {case} lacks the option {name!r}", str(self.path))
        return options[name]

    def get(self, case: str, tensor: str) -> Tensor | None:
        return self.tensors.get(f"cases.{case}.{tensor}")

    def need(self, case: str, tensor: str) -> Tensor:
        value = self.get(case, tensor)
        if value is None:
            raise UserError(f"case {case} lacks the tensor {tensor}", str(self.path))
        return value


def _tower(modality: Modality, config: Mapping[str, Any], where: str) -> OviTower:
    """The tower that a released configuration describes; UserError for one that this tower is not."""
    unlike = {key: config[key] for key in ("qk_norm", "cross_attn_norm") if config.get(key, True) is not True}
    if config["in_dim"] != config["out_dim"]:
        unlike["out_dim"] = config["out_dim"]
    if unlike:
        raise UserError(f"the {modality} tower has options that the released model does not: {unlike}", where)
    patch = tuple(config["patch_size"])
    return OviTower(
        modality,
        config["in_dim"],
        config["text_dim"],
        width=config["dim"],
        feed_forward_width=config["ffn_dim"],
        heads=config["num_heads"],
        depth=config["num_layers"],
        text_length=config["text_len"],
        frequency_width=config["freq_dim"],
        patch=patch if len(patch) == 3 else (1, 1, 1),
        eps=config["eps"],
    )


def empty_model(golden: Golden) -> JointModel:
    """The model that the file's configurations describe, its weights still to come."""
    where = str(golden.path)
    configs = {m: parse_json_metadata(golden.metadata, f"{m}_config", where) for m in MODALITIES}
    try:
        towers = AV.of({m: _tower(m, config, where) for m, config in configs.items()})
        scale = float(str(configs["audio"].get("temporal_rope_scaling_factor", 1.0)))
    except KeyError as error:
        raise UserError(f"a tower's configuration lacks {error}", where) from error
    width, heads = towers.map(lambda tower: tower.width), towers.map(lambda tower: tower.heads)
    fusion = ovi_fusion(towers["video"].depth, width, heads, sdpa)
    return JointModel(AV(towers.video, towers.audio), fusion, IndexPositions(scale), sdpa)


def build_model(golden: Golden, dtype: torch.dtype) -> JointModel:
    """The model with the file's weights, put in through the checkpoint format."""
    where, model = str(golden.path), empty_model(golden).to(dtype)
    official = {name: value.to(dtype) for name, value in golden.weights().items()}
    try:
        load_into(model, ovi_format().keymap.to_ours(official), where)
    except UnmappedError as error:
        raise UserError(f"the released model has no weight named {error}", where) from error
    return model.eval()


def latents_in(modality: Modality, recorded: Tensor, dtype: torch.dtype) -> Tensor:
    """Our layout of recorded latents: (1, c, t, y, x) or (1, c, t)."""
    return (recorded if modality == "video" else recorded.T)[None].to(dtype)


def latents_out(modality: Modality, ours: Tensor) -> Tensor:
    """The recorded layout of our latents, the inverse of ``latents_in``."""
    return ours[0] if modality == "video" else ours[0].T


def skipped_layers(recorded: int | None) -> tuple[int, ...]:
    """The layers that a recorded option skips. As in the released code, none and layer 0 are both no layer."""
    return (recorded,) if recorded is not None and recorded > 0 else ()


def text_in(recorded: Tensor, dtype: torch.dtype) -> Text:
    return Text(recorded[None].to(dtype), torch.tensor([recorded.shape[0]]))


def grid_of(modality: Modality, latents: Tensor) -> TokenGrid:
    """The grid of latents (1, c, t, y, x) or (1, c, t)."""
    sizes = (*latents.shape[2:], 1, 1)[:3]
    return TokenGrid.uniform(modality, (sizes[0], sizes[1], sizes[2]), SECONDS_PER_STEP)
