"""The processes of a training run: how many there are, which one this is, and who started them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from ovikit.errors import UserError
from ovikit.recipe.training import Trainer
from ovikit.training.batches import Share
from ovikit.training.sharing import WAIT, Sharing

Kind = Literal["single", "ddp", "fsdp"]


@dataclass(frozen=True)
class World:
    """The processes of a run, one for each device.

    rank:        of this process, from 0
    devices:     of each node
    sequence:    how many neighbouring ones share the tokens of a clip: a group, which computes a micro-batch together
    environment: who started the processes, or will
    """

    rank: int
    devices: int
    nodes: int
    kind: Kind
    environment: ClusterEnvironment
    sequence: int = 1

    @property
    def size(self) -> int:
        return self.devices * self.nodes

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes for the run."""
        return self.rank == 0

    def share(self, micro_batches: int) -> Share:
        """Which of a step's micro-batches this process's group computes. UserError where they cannot be shared."""
        return Share(micro_batches, self.rank // self.sequence, self.size // self.sequence)


def find_world(trainer: Trainer, environ: Mapping[str, str] = os.environ) -> World:
    """The processes that torchrun or SLURM's srun have started, whatever the recipe says; else those of the recipe,
    which Lightning starts. UserError where there are not as many devices."""
    if TorchElasticEnvironment.detect():
        devices, size = int(environ["LOCAL_WORLD_SIZE"]), int(environ["WORLD_SIZE"])
        rank, nodes, found = int(environ["RANK"]), size // devices, TorchElasticEnvironment()
    elif int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        nodes = int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", "1")))
        rank, devices = int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"]) // nodes
        found = SLURMEnvironment(auto_requeue=False)
    else:
        devices, nodes, found = trainer.devices, trainer.nodes, LightningEnvironment()
        rank = found.node_rank() * devices + found.local_rank() if devices * nodes > 1 else 0
    _refuse_device(trainer, devices)
    world = World(rank, devices, nodes, _kind(trainer, devices * nodes), found, trainer.sequence)
    _refuse_groups(world)
    if world.kind == "fsdp" and trainer.precision in ("64-true", "16-mixed"):
        raise UserError(f"weights cannot be sharded with precision {trainer.precision}", "training.trainer.strategy")
    return world


def _refuse_groups(world: World) -> None:
    if world.size % world.sequence == 0:
        return
    there = "there is 1 process" if world.size == 1 else f"there are {world.size} processes"
    raise UserError(
        f"{there}, but {world.sequence} are to share the tokens of a clip",
        "training.trainer.sequence",
        f"start a multiple of {world.sequence}: torchrun --nproc-per-node {world.sequence} -m -- ovikit train ...; or "
        f"-o training.trainer.sequence={math.gcd(world.size, world.sequence)}",
    )


def _kind(trainer: Trainer, size: int) -> Kind:
    if trainer.strategy == "auto":
        return "single" if size == 1 else "ddp"
    return "single" if size == 1 and trainer.strategy == "ddp" else trainer.strategy


def _refuse_device(trainer: Trainer, devices: int) -> None:
    there = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(trainer.accelerator)
    if there == 0:
        raise UserError(
            f"there is no {trainer.accelerator} device on this machine",
            "training.trainer.accelerator",
            "-o training.trainer.accelerator=cpu trains on the processor",
        )
    if there is not None and devices > there:
        raise UserError(
            f"there are {there} {trainer.accelerator} devices on this machine, not {devices}",
            "training.trainer.devices",
            f"-o training.trainer.devices={there}",
        )


def strategy_of(world: World, sharded_checkpoints: bool) -> Strategy | str:
    """How Lightning spreads the run over its processes."""
    if world.kind == "single":
        return "auto"
    if world.kind == "ddp":
        return DDPStrategy(timeout=WAIT)
    return Sharing(world.size, sharded_checkpoints)
