"""What a step of training takes on each device, without weights and without a device.

A forward and a backward run once on the meta device, where everything that lives is counted: so ``activations`` holds
for any tower, fusion and adapter, and for whatever is frozen (what no gradient passes through keeps nothing).

======================  =======================================================================================
on every device          bytes
======================  =======================================================================================
weights                 4 each if trained (the float32 masters), else as they are frozen
copies                  2 for each weight that a step computes with in 16 bits and that is kept in more
gradients               as the trained weights
optimizer               two numbers for each trained weight (of a byte each with 8-bit states)
average                 4 for each trained weight, unless it is kept on the host
activations             of one micro-batch
======================  =======================================================================================

``fsdp`` divides all but the activations by the devices, and adds what is gathered: two layers and what lies outside the
layers, with one layer's gradients. ``ddp`` divides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from ovikit.networks.joint import JointModel
from ovikit.networks.peak import PeakBytes
from ovikit.runtime.recompute import checkpoint_layers, forget_checkpointing
from ovikit.types import AV, Text, TokenGrid

Sharing = Literal["ddp", "fsdp"]
GATHERED_LAYERS = 2
"""Layers that FSDP holds whole at a time: the one at work and the one that comes next."""


class _Attention(torch.autograd.Function):
    """Attention as a fused kernel allocates: forward keeps its inputs, its output and one number a query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counter: CountedAttend) -> Tensor:
        ctx.counter, out = counter, torch.empty_like(query)
        counter.flops += 2 * _product(query, key)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, _, _ = ctx.saved_tensors
        ctx.counter.flops += 5 * _product(query, key)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _product(query: Tensor, key: Tensor) -> int:
    """FLOPs of one product of queries and keys."""
    batch, queries, heads, width = query.shape
    return 2 * batch * heads * queries * key.shape[1] * width


class CountedAttend:
    """An ``attend`` that computes nothing, and counts what a fused kernel would do in forward and backward."""

    def __init__(self) -> None:
        self.flops = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        return _Attention.apply(query, key, value, self)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Kept:
    """How the numbers of a run are kept. Bytes.

    trained:   of a weight that is trained, and of its gradient
    frozen:    of a weight that is not
    computed:  of the format that a step computes in
    optimizer: of the optimizer's states, for a trained weight
    average:   of the moving average, for a trained weight; 0: none, or on the host
    """

    trained: int = 4
    frozen: int = 4
    computed: int = 4
    optimizer: int = 8
    average: int = 0


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a micro-batch takes.

    clips:        of the micro-batch
    trained, frozen: parameters
    layers:       (trained, frozen) of each layer
    outside:      (trained, frozen) of what lies outside the layers
    activations:  bytes at the peak of forward and backward, by whether layers are checkpointed
    flops:        of forward and backward, likewise
    """

    clips: int
    layers: tuple[tuple[int, int], ...]
    outside: tuple[int, int]
    activations: Mapping[bool, int]
    flops: Mapping[bool, int]

    @property
    def trained(self) -> int:
        return self.outside[0] + sum(one for one, _ in self.layers)

    @property
    def frozen(self) -> int:
        return self.outside[1] + sum(one for _, one in self.layers)

    def per_device(self, sharing: Sharing, devices: int, checkpointed: bool, kept: Kept) -> dict[str, int]:
        """Bytes on each of the devices, by what they are for."""
        shards = devices if sharing == "fsdp" else 1
        trained, frozen = self.trained, self.frozen
        # Frozen weights are cast for a layer at a time where the backward computes it again, trained ones once a step.
        cast = max(two for _, two in self.layers) if checkpointed else frozen
        wide = (trained if kept.trained > kept.computed else 0) + (cast if kept.frozen > kept.computed else 0)
        found = {
            "weights": (kept.trained * trained + kept.frozen * frozen) // shards,
            "gradients": kept.trained * trained // shards,
            "optimizer": kept.optimizer * trained // shards,
            "average": kept.average * trained // shards,
        }
        if shards > 1:
            largest = max(self.layers, key=sum)
            held = GATHERED_LAYERS * sum(largest) + sum(self.outside)
            found["gathered"] = kept.computed * held + kept.trained * largest[0]
        else:
            found["copies"] = kept.computed * wide
        return found | {"activations": self.activations[checkpointed]}


def estimate_training(
    model: JointModel,
    attend: CountedAttend,
    latents: AV[tuple[int, ...]],
    grids: AV[TokenGrid],
    text_width: int,
    clips: int,
) -> TrainingEstimate:
    """What a micro-batch of ``clips`` takes.

    model:   on the meta device, in the format that a step computes in, built with ``attend``; what it trains requires
             gradients
    latents: shapes of a clip's, without the batch, of the modalities that are trained
    """
    step = _Step(model, latents, grids, text_width, clips)
    activations: dict[bool, int] = {}
    flops: dict[bool, int] = {}
    with _dropped_gradients(model):
        for checkpointed in (False, True):
            attend.flops = 0
            with _checkpointed(model, checkpointed), _Counted() as counted:
                step()
            activations[checkpointed] = counted.peak
            flops[checkpointed] = counted.flops + attend.flops
    return TrainingEstimate(clips, *_sizes(model), activations, flops)


class _Step:
    """One micro-batch on the meta device."""

    def __init__(
        self, model: JointModel, shapes: AV[tuple[int, ...]], grids: AV[TokenGrid], text_width: int, clips: int
    ) -> None:
        self.model, self.grids = model, grids
        dtype = next(model.parameters()).dtype
        with torch.device("meta"):
            text = Text(torch.empty(clips, 1, text_width, dtype=dtype), torch.empty(clips, dtype=torch.int64))
            self.latents = shapes.map(lambda shape: torch.empty(clips, *shape, dtype=dtype))
            self.sigma = shapes.map(lambda _: torch.empty(clips, dtype=torch.float64))
        self.text = shapes.map(lambda _: text)

    def forward(self) -> AV[Tensor]:
        context = self.model.embed_text(self.text, cache=False)
        return self.model(self.latents, self.sigma, context, self.grids)

    def __call__(self) -> None:
        torch.stack([one.float().square().mean() for one in self.forward().values()]).sum().backward()


class _Counted(PeakBytes):
    """Counts FLOPs as well, with PyTorch's formulas. (Its own counter keeps alive what checkpointing would let go.)"""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def _checkpointed(model: JointModel, on: bool) -> Iterator[None]:
    if on:
        checkpoint_layers(model)
    try:
        yield
    finally:
        if on:
            forget_checkpointing(model)


@contextmanager
def _dropped_gradients(model: nn.Module) -> Iterator[None]:
    """Gradients of weights are dropped as they are made: they are counted apart."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(drop) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _sizes(model: JointModel) -> tuple[tuple[tuple[int, int], ...], tuple[int, int]]:
    """(trained, frozen) parameters of each layer, and of what lies outside the layers."""
    layers = tuple(_counted(layer) for layer in model.layers)
    whole = _counted(model)
    return layers, (whole[0] - sum(one for one, _ in layers), whole[1] - sum(one for _, one in layers))


def _counted(module: nn.Module) -> tuple[int, int]:
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in module.parameters()) - trained
