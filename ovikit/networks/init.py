"""Weights drawn from one explicit generator."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Generator, nn


@runtime_checkable
class Initialised(Protocol):
    """A module that sets the weights it owns, and may reset those of its children."""

    def init_weights(self, generator: Generator) -> None: ...


def _default(module: nn.Module, generator: Generator) -> bool:
    """Whether the module is of a standard kind, after having set its weights."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02, generator=generator)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
        module.reset_parameters()
    else:
        return False
    return True


@torch.no_grad()
def initialise(model: nn.Module, generator: Generator) -> None:
    """Draws every weight of ``model`` (CPU) from ``generator``: the standard layers by Wan's rule (Xavier, zero bias),
    everything else by the module's own ``init_weights(generator)``, children before parents.

    TypeError names a module that owns weights and says nothing of how to draw them.
    """
    for name, module in reversed(list(model.named_modules())):
        known = _default(module, generator)
        if isinstance(module, Initialised):
            module.init_weights(generator)
        elif not known and next(module.parameters(recurse=False), None) is not None:
            raise TypeError(f"{name} ({type(module).__name__}) owns weights: give it init_weights(generator)")
