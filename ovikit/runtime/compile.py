"""Layers compiled by torch.compile, one graph for all that are alike, and eager layers where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from ovikit.networks.joint import JointModel
from ovikit.networks.precision import Precise

_log = logging.getLogger(__name__)
_ROUNDING = "emulate_precision_casts"  # of torch._inductor.config


class _Compiling:
    """The compiled ``forward`` of the layers of one model, or their own from the first failure on."""

    def __init__(self, layers: list[nn.Module], backend: str | Callable[..., Any], options: dict[str, Any]) -> None:
        self._layers, self._backend, self._options = layers, backend, options
        self._own = [layer.__dict__.get("forward") for layer in layers]
        self.failed: str | None = None

    def wrap(self, layer: nn.Module) -> None:
        """Puts the compiled forward in the place of the layer's own; its names and hooks stay."""
        own = layer.forward
        compiled = torch.compile(own, fullgraph=True, dynamic=False, backend=self._backend, options=self._options)

        def forward(*args: Any) -> Any:
            if self.failed is not None:
                return own(*args)
            try:
                return compiled(*args)
            except TorchDynamoException as error:
                self._give_up(error)
                return own(*args)

        layer.forward = forward

    def _give_up(self, error: Exception) -> None:
        """Lets every layer run as it was written: a model is never half compiled."""
        words = str(error).strip().splitlines() or [type(error).__name__]
        self.failed = " ".join(words[:2])  # the second line is what the compiler said
        _log.warning("the layers cannot be compiled here, so they run uncompiled: %s", self.failed)
        for layer, own in zip(self._layers, self._own, strict=True):
            _put(layer, own)


def _put(layer: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Puts a ``forward`` before the one of the layer's class; None: nothing."""
    layer.__dict__.pop("forward", None)
    if forward is not None:
        layer.forward = forward


def compile_layers(model: JointModel, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles each layer of the model when it is first called. Where that fails, one warning says why and all layers
    run as they were written. The weights' names do not change."""
    exact = any(isinstance(tower, Precise) and tower.precision.rounds_each for tower in model.towers.values())
    # Fused operations round once, at their end, unless they are told to round as each would by itself.
    options = {_ROUNDING: True} if exact and backend == "inductor" else {}
    compiling = _Compiling(list(model.layers), backend, options)
    for layer in model.layers:
        compiling.wrap(layer)
