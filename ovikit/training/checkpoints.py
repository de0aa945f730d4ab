"""The weights in a training checkpoint, as a file that clips can be made from."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovikit.checkpoints.load import read_metadata, write_tensors
from ovikit.checkpoints.lora import write_adapters
from ovikit.errors import UserError, listed
from ovikit.layout import CHECKPOINTS, LOCK
from ovikit.recipe.document import read_yaml
from ovikit.training.sharded import read_shares

SUFFIX = ".ckpt"
_PREFIX = "model."
_KEYS = ("global_step", "state_dict", "callbacks")
_MARK = "checkpoint"
"""The key in the metadata of weights that were taken from a checkpoint; its value is that file's name."""


def read_checkpoint(path: Path, hint: str | None = None) -> dict[str, Any]:
    """What a checkpoint file holds; its tensors are mapped, not read.

    UserError, with ``hint``, for a file that is missing, damaged, or no checkpoint of a training run.
    """
    try:
        found: Any = (
            read_shares(path) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        )
        lacking = [key for key in _KEYS if key not in found] if isinstance(found, dict) else list(_KEYS)
        if lacking:
            raise ValueError(f"it holds no {', '.join(lacking)}")
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        # the first line only: torch adds advice on loading without safety
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"this checkpoint cannot be read ({reason})", str(path), hint) from error
    return found


def checkpoint_weights(path: Path | str, averaged: bool = True) -> dict[str, Tensor]:
    """Every tensor of the JointModel in a checkpoint file, on the CPU, under the names that the model gives it.

    averaged: the trained parameters are their averages, where the run keeps averages; False: always as the last step
              left them

    At a run's last step these are its final weights. UserError for a file that is missing, damaged or no checkpoint.
    """
    return _weights(read_checkpoint(Path(path)), averaged)


def _weights(checkpoint: dict[str, Any], averaged: bool) -> dict[str, Tensor]:
    state = {
        name.removeprefix(_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    if averaged:
        state |= {name: value.to(state[name].dtype) for name, value in _average(checkpoint).items()}
    return {name: value.contiguous().clone() for name, value in state.items()}


def _average(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The averages that the run's Ema callback keeps; empty where it has none."""
    return checkpoint["callbacks"].get("Ema", {}).get("average", {})


def weights_of_checkpoint(run: Path, name: str) -> Path:
    """The file with the weights of a checkpoint of the run in folder ``run``, averaged as ``checkpoint_weights`` does;
    of a run of adapters the file with those.

    name: of a file in the run's folder of checkpoints, with or without its .ckpt; or the path of a checkpoint

    The file lies beside the checkpoint with the suffix .safetensors. It is written once, whole or not at all, and
    again where the checkpoint is no older. UserError for a checkpoint that is not there, or cannot be read.
    """
    path = find_checkpoint(run, name)
    weights = path.with_suffix(".safetensors")
    if weights.is_file():
        if _MARK not in read_metadata(weights):
            raise UserError(
                f"the weights of {path.name} would take the place of this file", str(weights), "move one of the two"
            )
        if weights.stat().st_mtime_ns > path.stat().st_mtime_ns:
            return weights
    checkpoint = read_checkpoint(path)
    lock = read_yaml(run / LOCK).data
    metadata = {
        "format": "ovikit",
        "recipe": str(lock.get("name")),
        "digest": str(lock.get("lock", {}).get("digest")),
        "step": str(checkpoint["global_step"]),
        "weights": "ema" if _average(checkpoint) else "last",
        _MARK: path.name,
    }
    lora = (lock.get("training") or {}).get("lora")
    found = _weights(checkpoint, averaged=True)
    if lora is None:
        write_tensors(weights, found, metadata)
    else:
        write_adapters(weights, found, lora["alpha"], metadata)
    return weights


def find_checkpoint(run: Path, name: str) -> Path:
    """The checkpoint of a run that ``name`` means, as in ``weights_of_checkpoint``. UserError where there is none."""
    if not (run / LOCK).is_file():
        raise UserError(f"this is not the folder of a run: it has no {LOCK}", str(run))
    folder = run / CHECKPOINTS
    named = name if name.endswith(SUFFIX) else f"{name}{SUFFIX}"
    for path in (folder / named, Path(name)):
        if path.exists():
            return path
    there = sorted(path.name for path in folder.glob(f"[!.]*{SUFFIX}"))
    raise UserError(
        f"this run has no checkpoint '{name}'", str(folder), f"there is {listed(there, 8)}" if there else None
    )
