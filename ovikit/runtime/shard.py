"""Parameters, gradients and optimizer states shared out over processes: PyTorch's FSDP2 over the layers of a model."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from ovikit.networks.joint import JointModel
from ovikit.types import AV, Context, KeyValue, NoiseConditioning, Rotation, Stream, Text


def shard_layers(model: JointModel, mesh: DeviceMesh) -> None:
    """Shares the model out over the processes of a mesh of one dimension: each layer is gathered when it is run,
    forward and backward, and what is around the layers once a step. Matrices that are kept in another number format
    than the rest of their layer are gathered one by one.

    Losses are those of one process up to the order in which gradients are added.
    """
    _teach_pytree()
    for layer in model.layers:
        _shard_others(layer, mesh)
        fully_shard(layer, mesh=mesh)
    _shard_others(model, mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "embed_text")


def _shard_others(module: nn.Module, mesh: DeviceMesh) -> None:
    """FSDP2 takes parameters of one dtype together."""
    for one in module.modules():
        own = list(one.parameters(recurse=False))
        if own and all(p.dtype == torch.bfloat16 and not isinstance(p, DTensor) for p in own):
            fully_shard(one, mesh=mesh)


@cache
def _teach_pytree() -> None:
    """Tells PyTorch where the tensors lie in what the layers take and give: FSDP2 hooks itself onto them."""
    for kind in (AV, Context, KeyValue, NoiseConditioning, Rotation, Stream, Text):
        names = [field.name for field in fields(kind)]

        def flatten(one: Any, names: list[str] = names) -> tuple[list[Any], None]:
            return [getattr(one, name) for name in names], None

        def build(values: Any, context: None, kind: type = kind) -> Any:
            return kind(*values)

        pytree.register_pytree_node(kind, flatten, build)


def whole(tensor: Tensor) -> Tensor:
    """The tensor that processes share, whole; all of them have to ask for it. Another tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: all of it where it is not shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_like(value: Tensor, shared: Tensor) -> Tensor:
    """What this process has of ``value`` if it is shared as ``shared`` is."""
    if not isinstance(shared, DTensor):
        return value
    mesh = shared.device_mesh
    return distribute_tensor(value.to(shared.to_local().device), mesh, shared.placements, src_data_rank=None).to_local()


def whole_like(part: Tensor, shared: Tensor | None) -> Tensor:
    """The tensor, on the CPU, of which ``part`` is this process's part if it is shared as ``shared`` is; ``part``
    itself where nothing is shared. All processes have to ask for it, and the first one gets it: of others, nothing."""
    if not isinstance(shared, DTensor):
        return part
    on_device = part.to(shared.to_local().device)
    placed = DTensor.from_local(
        on_device, shared.device_mesh, shared.placements, shape=shared.shape, stride=shared.stride()
    )
    found = placed.full_tensor()
    return found.cpu() if shared.device_mesh.get_rank() == 0 else found.new_empty(0, device="cpu")
