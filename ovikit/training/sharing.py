"""FSDP2 in Lightning, with checkpoints that any number of processes writes and reads; and how others read them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from ovikit.training.checkpoints import read_checkpoint
from ovikit.training.sharded import HELD, load_share, read_shares, write_share

WAIT = timedelta(hours=24)
"""How long processes wait for the first one, which encodes and validates while they do."""


class Sharing(ModelParallelStrategy):
    """FSDP2 over all processes, with checkpoints of one file or in shares."""

    def __init__(self, processes: int, sharded_checkpoints: bool) -> None:
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=sharded_checkpoints,
            timeout=WAIT,
        )
        self._sharded = sharded_checkpoints

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: object | None = None
    ) -> None:
        if not self._sharded:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        folder = Path(self.broadcast(filepath))
        folder.mkdir(parents=True, exist_ok=True)
        write_share(folder, checkpoint, self.global_rank, self.world_size)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Of a checkpoint of either kind, written by any number of processes: the first one reads the tensors and sends
        each of the others its part."""
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir():
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            found = read_shares(path) if self.global_rank == 0 else load_share(path, 0)[HELD]
        assert self.model is not None
        assert self.lightning_module is not None
        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=True, strict=self.lightning_module.strict_loading
        )
        main = self.global_rank == 0
        set_model_state_dict(self.model, found.pop("state_dict") if main else {}, options=options)
        for optimizer, state in zip(self.optimizers, found["optimizer_states"], strict=True):
            named = _by_name(state, optimizer, self.model) if main else {}
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return found


def _by_name(state: dict[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state by the name of each parameter: what stands where in the groups is what stands there in
    ``optimizer``, whatever it was numbered by."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    name_of: dict[int, str] = {}
    groups: list[dict[str, Any]] = []
    for kept, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        told = [names[id(parameter)] for parameter in own["params"]]
        name_of |= dict(zip(kept["params"], told, strict=True))
        groups.append({**kept, "params": told})
    return {"state": {name_of[number]: one for number, one in state["state"].items()}, "param_groups": groups}


class CheckpointFiles(TorchCheckpointIO):
    """Reads checkpoints for Lightning, also those in shares."""

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))
