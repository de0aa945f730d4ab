"""Checkpoints in shares: a folder with one file for each process, which become one checkpoint again when they are read.

Tensors are shared out along their first dimension, as FSDP2 does; the file of the first process holds all else. No file
holds pickled code, as those of ``torch.distributed.checkpoint`` do.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ovikit.errors import UserError
from ovikit.files import atomic_path, writing

HELD, _SHARED, _SHARES = "held", "shared", "shares"
Place = list[str | int]
"""Keys of nested mappings and lists, from the outside."""


def write_share(folder: Path, checkpoint: dict[str, Any], rank: int, shares: int) -> None:
    """Writes what one process holds of a checkpoint."""
    shared: list[Place] = []
    held = _local(checkpoint, [], shared)
    if rank > 0:
        held = {}
        for place in shared:
            _put(held, place, _local(_at(checkpoint, place), [], []))
    path = folder / f"{rank:05d}-of-{shares:05d}.ckpt"
    with writing(path):
        torch.save({HELD: held, _SHARED: shared, _SHARES: shares}, path)


def _local(value: Any, place: Place, shared: list[Place]) -> Any:
    """The value with this process's part of every shared tensor, whose places are noted."""
    if isinstance(value, dict):
        return {key: _local(one, [*place, key], shared) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_local(one, [*place, k], shared) for k, one in enumerate(value)]
    if isinstance(value, DTensor):
        shared.append(place)
        return value.to_local().detach().cpu().clone()
    return value


def _at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def _put(held: dict[str | int, Any], place: Place, value: Any) -> None:
    for key in place[:-1]:
        held = held.setdefault(key, {})
    held[place[-1]] = value


def read_shares(folder: Path) -> dict[str, Any]:
    """The checkpoint of a folder, as one process would have written it. UserError where a share is missing or
    damaged."""
    first = load_share(folder, 0)
    shares = [first, *(load_share(folder, k) for k in range(1, first[_SHARES]))]
    found: dict[str, Any] = first[HELD]
    for place in first[_SHARED]:
        parts = [_at(one[HELD], place) for one in shares]
        whole = torch.cat(parts) if parts[0].ndim else parts[0]
        _at(found, place[:-1])[place[-1]] = whole
    found["optimizer_states"] = [_by_number(state) for state in found["optimizer_states"]]
    return found


def read_step(folder: Path) -> int:
    """The step of a checkpoint in shares. UserError where it cannot be read."""
    return int(load_share(folder, 0)[HELD]["global_step"])


def _by_number(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the number of each parameter, as optimizers have it, in place of its name."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: k for k, name in enumerate(names)}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: one for name, one in state["state"].items()}, "param_groups": groups}


def load_share(folder: Path, rank: int) -> dict[str, Any]:
    """What the process ``rank`` has written. UserError where it cannot be read."""
    try:
        paths = sorted(folder.glob(f"{rank:05d}-of-*.ckpt"))
        if len(paths) != 1:
            raise FileNotFoundError(f"there are {len(paths)} files of process {rank}")
        return torch.load(paths[0], map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"this checkpoint cannot be read ({reason})", str(folder)) from error


@contextmanager
def checkpoint_path(path: Path, sharded: bool) -> Iterator[Path]:
    """A temporary path for a checkpoint, a file or a folder, that becomes ``path`` when it is whole."""
    if not sharded:
        with atomic_path(path) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}-new")
    with writing(path):
        _remove(temporary)
        temporary.mkdir(parents=True)
        try:
            yield temporary
        except BaseException:
            _remove(temporary)
            raise
        _remove(path)
        temporary.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for one in path.iterdir():
            one.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
