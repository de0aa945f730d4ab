"""Activation checkpointing: layers that keep nothing but their inputs, and are computed again in the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ovikit.networks.joint import JointModel


def checkpoint_layers(model: JointModel) -> None:
    """Checkpoints each layer of the model. Names and hooks stay, and so do losses and gradients, bit for bit: what a
    layer draws from the global generators it draws again alike. Without gradients nothing changes.

    To be called before layers are compiled, so that the compiler sees what is to be computed again.
    """
    for layer in model.layers:
        layer.forward = _checkpointed(layer)


def forget_checkpointing(model: JointModel) -> None:
    """Undoes ``checkpoint_layers``."""
    for layer in model.layers:
        layer.__dict__.pop("forward", None)


def _checkpointed(layer: nn.Module) -> Callable[..., Any]:
    own = layer.forward

    def forward(*args: Any) -> Any:
        return checkpoint(own, *args, use_reentrant=False) if torch.is_grad_enabled() else own(*args)

    return forward
