"""The optimizer of a run: AdamW over groups of parameters, with its learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ovikit.extras import require
from ovikit.training.parameters import PARTS, Part, part_of

Kind = Literal["adamw", "adamw-8bit"]


class AdamWCosine:
    """Makes AdamW with a linear warm-up and a cosine decay, by optimizer step.

    rates: of each part of the model, a factor of the learning rate
    kind:  ``adamw-8bit`` keeps both running means in 8 bits, block by block (Dettmers et al. 2021, bitsandbytes);
           those of parameters of fewer than 4096 numbers stay in float32
    """

    def __init__(
        self,
        *,
        steps: int,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        warmup_steps: int,
        final_fraction: float,
        rates: Mapping[str, float] | None = None,
        kind: Kind = "adamw",
    ) -> None:
        self.steps, self.warmup_steps, self.final_fraction = steps, warmup_steps, final_fraction
        self.learning_rate, self.betas, self.eps, self.weight_decay = learning_rate, betas, eps, weight_decay
        self.rates: dict[Part, float] = {part: (rates or {}).get(part, 1.0) for part in PARTS}
        self.kind: Kind = kind

    def __call__(self, model: nn.Module, fused: bool) -> tuple[Optimizer, LambdaLR]:
        """Optimizer and schedule of the parameters that are trained. Gains, biases and other vectors do not decay."""
        groups = self._groups(model)
        if self.kind == "adamw-8bit":
            eight: type[Optimizer] = require("bitsandbytes", "quant").optim.AdamW8bit
            optimizer = eight(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps)  # type: ignore[call-arg]
        else:
            optimizer = AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps, fused=fused)
        return optimizer, LambdaLR(optimizer, self.factor)

    def _groups(self, model: nn.Module) -> list[dict[str, object]]:
        """Parameters of one rate and one decay together: the fewer groups, the fewer kernels."""
        trained = [(self.rates[part_of(name)], p) for name, p in model.named_parameters() if p.requires_grad]
        groups: list[dict[str, object]] = []
        for rate in dict.fromkeys(rate for rate, _ in trained):
            own = [p for other, p in trained if other == rate]
            lr = self.learning_rate * rate
            groups.append({"params": [p for p in own if p.ndim > 1], "lr": lr, "weight_decay": self.weight_decay})
            groups.append({"params": [p for p in own if p.ndim <= 1], "lr": lr, "weight_decay": 0.0})
        return groups

    def factor(self, step: int) -> float:
        """Share of the highest learning rate at a step counted from 0: the warm-up's last step has all of it, the
        run's last step has ``final_fraction``."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
