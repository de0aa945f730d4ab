"""Files of low-rank adapters: ovikit's own, PEFT's, and the spellings of them that other tools write.

Shape legend: r rank, i width in, o width out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.load import Place, read_tensors, unscaled, write_tensors
from ovikit.checkpoints.state import read_state
from ovikit.errors import UserError, listed
from ovikit.files import atomic_write_json

FORMAT = "ovikit-lora"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PEFT = "base_model.model."
_PREFIXES = (_PEFT, "diffusion_model.", "transformer.", "model.")
_PARTS = re.compile(r"(?P<layer>.+?)\.(?:(?P<down>lora_A|lora_down)|(?P<up>lora_B|lora_up))(?:\.default)?\.weight")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The correction of one layer: scale * up @ down."""

    down: Float[Tensor, "r i"]
    up: Float[Tensor, "o r"]
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> Float[Tensor, "o i"]:
        """What is to be added to the layer's weight, computed in float32, or float64 where the adapter is."""
        dtype = torch.promote_types(self.up.dtype, torch.float32)
        return self.scale * (self.up.to(dtype) @ self.down.to(dtype))


@dataclass(frozen=True)
class Adapters:
    """The adapters of a file, by the names of ovikit's layers."""

    layers: Mapping[str, Adapter]
    metadata: Mapping[str, str]

    def scaled(self, factor: float) -> Adapters:
        layers = {name: Adapter(one.down, one.up, factor * one.scale) for name, one in self.layers.items()}
        return Adapters(layers, self.metadata)


def read_adapters(
    path: Path | str, layers: Mapping[str, tuple[int, int]], formats: Sequence[CheckpointFormat] = ()
) -> Adapters:
    """The adapters of a file, or of a folder that PEFT wrote. Strict: every tensor of it belongs to a layer.

    layers:  (out, in) of every linear layer of the model, by its name
    formats: whose names of layers are understood, beside the model's own

    UserError for a file that is damaged, holds anything else, or does not fit the model.
    """
    path = Path(path)
    file = path / PEFT_FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(f"this folder holds no {PEFT_FILE}", str(path))
    tensors, metadata = read_tensors(file)
    config = _config(path / PEFT_CONFIG if path.is_dir() else path.with_name(PEFT_CONFIG))
    found, alphas, unknown = _sorted(tensors, layers, formats)
    if unknown or not found:
        told = f"; {len(unknown)} tensors belong to no layer of it: {listed(unknown, 4)}" if unknown else ""
        raise UserError(f"these are not adapters of this model{told}", str(file))
    own = json.loads(metadata["alpha"]) if "alpha" in metadata else None
    made: dict[str, Adapter] = {}
    for name, (parts, said) in found.items():
        if set(parts) != {"down", "up"}:
            raise UserError(f"the adapter of {name} lacks one of its two matrices", str(file))
        down, up = parts["down"], parts["up"]
        _refuse_unfit(name, down, up, layers[name], str(file))
        rank = down.shape[0]
        alpha = alphas.get(name, own if own is not None else _peft_alpha(config, said, rank))
        made[name] = Adapter(down, up, float(alpha) / rank)
    return Adapters(dict(sorted(made.items())), metadata)


def _sorted(
    tensors: Mapping[str, Tensor], layers: Collection[str], formats: Sequence[CheckpointFormat]
) -> tuple[dict[str, tuple[dict[str, Tensor], str]], dict[str, float], list[str]]:
    """Matrices by layer with the layer's name in the file, alphas by layer, and the names that nobody knows."""
    found: dict[str, tuple[dict[str, Tensor], str]] = {}
    alphas: dict[str, float] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        match = _PARTS.fullmatch(key)
        said = match["layer"] if match else key.removesuffix(".alpha")
        name = _layer(said, layers, formats)
        if name is None or (match is None and not key.endswith(".alpha")):
            unknown.append(key)
        elif match is None:
            alphas[name] = float(tensor)
        else:
            found.setdefault(name, ({}, said))[0]["down" if match["down"] else "up"] = tensor
    return found, alphas, unknown + [name for name in alphas if name not in found]


def _layer(said: str, layers: Collection[str], formats: Sequence[CheckpointFormat]) -> str | None:
    """The model's layer that a file calls ``said``."""
    names = [said, *(said.removeprefix(one) for one in _PREFIXES if said.startswith(one))]
    for name in names:
        if name in layers:
            return name
        for one in formats:
            try:
                ours = one.keymap.ours(f"{name}.weight").removesuffix(".weight")
            except KeyError:
                continue
            if ours in layers:
                return ours
    return None


def _refuse_unfit(name: str, down: Tensor, up: Tensor, layer: tuple[int, int], where: str) -> None:
    wanted = (layer[0], down.shape[0] if down.ndim else 0), (down.shape[0] if down.ndim else 0, layer[1])
    if tuple(up.shape) != wanted[0] or tuple(down.shape) != wanted[1] or down.shape[0] == 0:
        told = f"{tuple(up.shape)} times {tuple(down.shape)}, and the layer is {layer}"
        raise UserError(f"the adapter of {name} does not fit: it is {told}", where)
    if not (down.isfinite().all() and up.isfinite().all()):
        raise UserError(f"the adapter of {name} holds NaN or Inf", where)


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("this is not a configuration of PEFT", str(path)) from error
    if not isinstance(found, dict):
        raise UserError("this is not a configuration of PEFT", str(path))
    if found.get("use_rslora") or found.get("use_dora"):
        raise UserError("adapters of the kinds rsLoRA and DoRA are not read", str(path), "merge them with PEFT")
    return found


def _peft_alpha(config: Mapping[str, Any], said: str, rank: int) -> float:
    """PEFT's alpha of a layer; the rank where nothing says it, which is a scale of 1."""
    name = said.removeprefix(_PEFT)
    for pattern, alpha in config.get("alpha_pattern", {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return float(alpha)
    return float(config.get("lora_alpha", rank))


def write_adapters(path: Path, tensors: Mapping[str, Tensor], alpha: float, metadata: Mapping[str, str]) -> None:
    """Writes ovikit's own file: the adapters of a model's state dict, by its names."""
    write_tensors(path, tensors, {**metadata, "format": FORMAT, "alpha": json.dumps(alpha)})


def write_peft(folder: Path, adapters: Adapters, checkpoint: CheckpointFormat | None, base: str | None = None) -> None:
    """Writes a folder that PEFT loads, and with it most tools that know adapters.

    checkpoint: whose names the layers get; None: the model's own
    base:       what the file is an adapter of, for whoever reads it
    """
    names = {name: _theirs(name, checkpoint) for name in adapters.layers}
    tensors: dict[str, Tensor] = {}
    for name, one in adapters.layers.items():
        tensors[f"{_PEFT}{names[name]}.lora_A.weight"] = one.down.float().contiguous()
        tensors[f"{_PEFT}{names[name]}.lora_B.weight"] = one.up.float().contiguous()
    first = next(iter(adapters.layers.values()))
    alphas = {names[name]: one.scale * one.rank for name, one in adapters.layers.items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": first.rank,
        "lora_alpha": _plain(first.scale * first.rank),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(names.values()),
        "rank_pattern": {
            names[name]: one.rank for name, one in adapters.layers.items() if one.rank != first.rank
        },
        "alpha_pattern": {
            name: _plain(alpha) for name, alpha in alphas.items() if alpha != first.scale * first.rank
        },
        "inference_mode": True,
    }  # fmt: skip
    write_tensors(folder / PEFT_FILE, tensors, {"format": "pt"})
    atomic_write_json(folder / PEFT_CONFIG, config)


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _theirs(name: str, checkpoint: CheckpointFormat | None) -> str:
    if checkpoint is None:
        return name
    try:
        return checkpoint.keymap.official(f"{name}.weight").removesuffix(".weight")
    except KeyError as error:
        raise UserError(f"the {checkpoint.name} format has no name for the layer {name}") from error


class Merging:
    """A ``place`` that adds adapters to the weights on their way: whatever it goes on to do with them, be it moving,
    streaming or quantising, it does with the sum.

    ``used`` are the layers that have passed.
    """

    def __init__(self, place: Place, adapters: Sequence[Adapters]) -> None:
        self._place, self._adapters = place, adapters
        self.used: set[str] = set()

    def __call__(self, name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
        layer = name.removesuffix(".weight")
        own = [one.layers[layer] for one in self._adapters if layer in one.layers]
        if not own:
            return self._place(name, tensor, scale)
        self.used.add(layer)
        wide = unscaled(tensor, scale) if tensor.dtype.itemsize == 1 else tensor  # float8 may have a scale
        # Not rounded to what the file has: that of the model is decided later.
        total = wide.to(torch.promote_types(wide.dtype, torch.float32))
        for one in own:
            total = total + one.delta().to(total)
        return self._place(name, total, None)


def merge_file(
    base: Path, checkpoint: CheckpointFormat | None, adapters: Sequence[Adapters], out: Path, about: Mapping[str, str]
) -> int:
    """How many weights were changed. Writes the base file with the adapters added: its names, its formats, and sums
    that are computed in float32 at least and rounded once.

    checkpoint: how the base names its tensors; None: as the model does
    about:      metadata that is added to the base's

    UserError where a layer is not in the file, or is kept in 8 bits there.
    """
    if out.exists():
        raise UserError("this is there already, and is not overwritten", str(out), "choose another name")
    tensors, metadata = read_state(base)
    names = {name if checkpoint is None else checkpoint.keymap.ours(name): name for name in tensors}
    layers = {f"{layer}.weight" for one in adapters for layer in one.layers}
    if lacking := sorted(layers - names.keys()):
        raise UserError(f"the base holds no {listed(lacking, 4)}", str(base))
    place = Merging(lambda name, tensor, scale=None: tensor, adapters)
    for ours in layers:
        name = names[ours]
        if tensors[name].dtype.itemsize == 1:
            raise UserError(f"{name} is kept in 8 bits there", str(base), "merge into the 16-bit weights")
        tensors[name] = place(ours, tensors[name]).to(tensors[name].dtype)
    write_tensors(out, tensors, {**metadata, **about})
    return len(layers)


@dataclass(frozen=True, slots=True)
class Told:
    """One layer's adapter, as a file has it. change: the norm of what it adds to the layer's weight."""

    layer: str
    rank: int
    out_features: int
    in_features: int
    scale: float
    change: float


def describe_adapters(path: Path | str) -> tuple[list[Told], dict[str, str]]:
    """What a file of adapters holds, under its own names, and its metadata. Errors as in ``read_adapters``."""
    path = Path(path)
    tensors, _ = read_tensors(path / PEFT_FILE if path.is_dir() else path)
    said: dict[str, tuple[int, int]] = {}
    for key, tensor in tensors.items():
        if match := _PARTS.fullmatch(key):
            out, into = said.get(match["layer"], (0, 0))
            said[match["layer"]] = (out, tensor.shape[-1]) if match["down"] else (tensor.shape[0], into)
    found = read_adapters(path, said)
    told = [
        Told(name, one.rank, *said[name], one.scale, float(one.delta().norm())) for name, one in found.layers.items()
    ]
    return told, dict(found.metadata)
