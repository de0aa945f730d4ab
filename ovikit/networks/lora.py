"""Low-rank adapters: linear layers that learn a small correction while their own weight stays as it is.

y = W x + b + scale * B (A x), where A is (rank, in) and B is (out, rank); B starts at zero, so that a model with new
adapters computes what it did without (Hu et al. 2021, LoRA, section 4.1).

Shape legend: r rank, i width in, o width out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

DOWN, UP = "lora_A", "lora_B"
"""What the two matrices are called, as in PEFT."""


class LoraLinear(nn.Linear):
    """A linear layer with an adapter. Its own weight and bias keep their names; the adapter is float32.

    base: whose weight and bias it takes over
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        dtype = torch.float64 if base.weight.dtype == torch.float64 else torch.float32
        # Made without values: PyTorch would draw them from its global generator.
        down = nn.Linear(base.in_features, rank, bias=False, device="meta", dtype=dtype)
        up = nn.Linear(rank, base.out_features, bias=False, device="meta", dtype=dtype)
        self.lora_A, self.lora_B = (one.to_empty(device=base.weight.device) for one in (down, up))

    def forward(self, input: Float[Tensor, "*any i"]) -> Float[Tensor, "*any o"]:
        plain = F.linear(input, self.weight, self.bias)
        # In the format that the layer computes in, which is not the adapter's where weights are kept short.
        down, up = (one.weight.to(input.dtype) for one in (self.lora_A, self.lora_B))
        return torch.add(plain, F.linear(F.linear(input, down), up), alpha=self.scale)

    def draw(self, generator: Generator) -> None:
        """Starts anew: A uniform within 1 / sqrt(in), as PEFT does; B zero."""
        bound = 1 / math.sqrt(self.in_features)
        with torch.no_grad():
            values = torch.rand(self.lora_A.weight.shape, generator=generator, dtype=torch.float64)
            self.lora_A.weight.copy_((2 * values - 1) * bound)
            self.lora_B.weight.zero_()


def add_adapters(
    model: nn.Module, targets: Sequence[str], rank: Callable[[str], int], alpha: float, generator: Generator
) -> list[str]:
    """The names of the linear layers that now have adapters: those that match one of the patterns, in their order.

    rank: of the adapter of the layer of that name; 0: it gets none
    ValueError for a pattern that matches no linear layer, and where no layer gets an adapter.
    """
    linear = {name: one for name, one in model.named_modules() if type(one) is nn.Linear}
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in linear):
            shown = ", ".join(list(linear)[:3])
            raise ValueError(f"the pattern '{pattern}' matches no linear layer; they are named {shown}, ...")
    chosen = [name for name in linear if any(fnmatchcase(name, pattern) for pattern in targets) and rank(name) > 0]
    if not chosen:
        raise ValueError("no layer gets an adapter: every rank is 0")
    for name in chosen:
        owner, _, leaf = name.rpartition(".")
        adapted = LoraLinear(linear[name], rank(name), alpha)
        if not adapted.lora_A.weight.is_meta:
            adapted.draw(generator)
        setattr(model.get_submodule(owner), leaf, adapted)
    return chosen


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    pieces = name.split(".")
    return len(pieces) > 2 and pieces[-2] in (DOWN, UP)


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The layers with adapters, by name."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module
