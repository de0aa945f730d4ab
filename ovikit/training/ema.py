"""An exponential moving average of the weights, as a callback that keeps it in the checkpoint.

Lightning's own ``EMAWeightAveraging`` deep-copies the module and averages what is frozen as well, puts the average
where the weights belong in a checkpoint, and overwrites the weights with it when training ends or stops early.
"""

from __future__ import annotations

from typing import Any

import lightning as L  # as its documentation writes it
import torch
from torch import Tensor

from ovikit.networks.lora import is_adapter
from ovikit.runtime.shard import own_part, part_like, whole, whole_like
from ovikit.training.module import JointTraining


class Ema(L.Callback):
    """Averages the trained parameters after every step, in float32 or better.

    on_host: the averages lie in the memory of the machine, and a step waits for the copy of the weights

    ``decay`` rises with the steps, min(decay, (1 + n) / (10 + n)), so that a short run is not an average of its start.
    """

    def __init__(self, decay: float, on_host: bool = False) -> None:
        self.decay, self.on_host, self.steps = decay, on_host, 0
        self._average: dict[str, Tensor] = {}
        self._shared: dict[str, Tensor] = {}  # the parameters, which know how they are shared

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, parameter in _trained(pl_module).items():
            kept = self._average.get(name)
            found = own_part(parameter.detach()) if kept is None else part_like(kept, parameter.detach())
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            self._average[name] = found.to("cpu" if self.on_host else parameter.device, dtype, copy=True)
            self._shared[name] = parameter.detach()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.steps:  # the step was skipped (a gradient scaler does that)
            return
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        new = [own_part(parameter.detach()) for parameter in _trained(pl_module).values()]
        old = list(self._average.values())
        # foreach wants one place and dtype on both sides: copies for averages on the host, and of models in bfloat16
        new = [n.to(o) for n, o in zip(new, old, strict=True)]
        torch._foreach_lerp_(old, new, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The averages by parameter name of the JointModel, on the CPU where processes share them; then all of them
        have to ask."""
        return {name: whole_like(value, self._shared.get(name)) for name, value in self._average.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.weights()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self._average = state_dict["steps"], dict(state_dict["average"])


def _trained(module: L.LightningModule) -> dict[str, Tensor]:
    assert isinstance(module, JointTraining)
    return {name: p for name, p in module.model.named_parameters() if p.requires_grad}


def final_weights(module: JointTraining, ema: Ema | None) -> dict[str, Tensor]:
    """Every tensor of the JointModel on the CPU, the trained parameters replaced by their averages if there are any.
    Of a model with adapters those alone."""
    state = {name: value.detach() for name, value in module.model.state_dict().items()}
    if module.adapted:
        state = {name: value for name, value in state.items() if is_adapter(name)}
    if ema is not None:
        state |= {name: value.to(state[name].dtype) for name, value in ema.weights().items()}
    # one after the other, so that no device holds them all; only the first process keeps them
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        gathered = whole(value)
        if module.global_rank == 0:
            found[name] = gathered.to("cpu").contiguous().clone()
    return found
