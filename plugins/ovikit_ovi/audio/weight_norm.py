"""Weight norm, as the released audio weights are stored, folded into plain weights once they are read.

Shape legend: o outputs of a convolution, i inputs, k kernel.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

EPS = 1e-4
"""Keeps a filter of zeros finite; part of the released autoencoder's arithmetic."""


def with_weight_norm(module: nn.Module) -> nn.Module:
    """The module, each convolution's weight stored as length and direction, as the vocoder's file has it."""
    for part in list(module.modules()):
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(part)
    return module


def without_weight_norm(module: nn.Module) -> nn.Module:
    """The module, what ``with_weight_norm`` did undone: each weight is its direction times its length."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")
    return module


def of_length_one(weight: Float[Tensor, "o i k"]) -> Float[Tensor, "o i k"]:
    """Every filter divided by its length, and a little more.

    This is not invertible where it matters: what is written back to a file is the stored weight, never this one.
    """
    root = math.sqrt(weight[0].numel())
    length = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
    return weight / (EPS + length / root) / root


@torch.no_grad()
def with_filters_of_length_one(module: nn.Module) -> nn.Module:
    """The autoencoder, its stored weights replaced by those that it computes with."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d):
            part.weight = nn.Parameter(of_length_one(part.weight))
    return module
