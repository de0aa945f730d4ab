"""The large matrices of the layers in 8 bits, by torchao.

Weights are rounded one matrix at a time while they are loaded: to int8 or float8 (e4m3), with one float32 scale for
each row. Norms, biases, embeddings, heads and the time and text networks stay as they are. Where the device multiplies
float8 (CUDA capability 8.9 and up) and the model is in bfloat16, ``fp8`` also rounds the activations of each token,
and the product itself is made in float8; everywhere else the weights are widened for the product.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit.errors import UserError
from ovikit.extras import require

Format = Literal["none", "int8", "fp8"]

LEAST_SIDE = 64
"""Of a matrix that is worth rounding, in rows and in columns."""
_FACTOR = 16  # float8 products want sides that are multiples of this
_CAPABILITY = (8, 9)
ROWS = 8192
"""Tokens whose activations are rounded at a time."""
_LEAST_VALUE = 1e-12  # of the largest value of a row: a row of zeros has a scale, too


def covers(name: str, shape: torch.Size | tuple[int, ...]) -> bool:
    """Whether the weight called ``name`` is one of the large matrices of the layers."""
    large = len(shape) == 2 and min(shape) >= LEAST_SIDE and not any(side % _FACTOR for side in shape)
    return large and name.startswith("layers.") and name.endswith(".weight")


def stored_bytes(name: str, tensor: Tensor, chosen: Format) -> int:
    """What a weight takes in that format."""
    if chosen == "none" or not covers(name, tensor.shape):
        return tensor.numel() * tensor.element_size()
    return tensor.numel() + 4 * tensor.shape[0]


def multiplies_float8(device: torch.device | str) -> bool:
    """Whether the device has float8 products of its own."""
    device = torch.device(device)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _CAPABILITY


def rounds_activations(chosen: Format, dtype: torch.dtype) -> bool:
    """Whether a model in ``dtype`` has its activations rounded, too, on a device with float8 products."""
    return chosen == "fp8" and dtype == torch.bfloat16  # torchao multiplies float8 rows of bfloat16 models only


@dataclass(frozen=True)
class Quantiser:
    """Makes quantised tensors of plain ones.

    dtype:   what they count as, and are widened to
    dynamic: float8 only: the activations are rounded, too
    """

    format: Literal["int8", "fp8"]
    dtype: torch.dtype
    dynamic: bool

    def __call__(self, matrix: Float[Tensor, "r c"], scale: Tensor | None = None) -> Tensor:
        """The matrix, on the device that it lies on, quantised. ``scale``: as in ``checkpoints.load.Place``.

        A float8 matrix becomes a float8 weight as it is, without rounding it again.
        """
        if self.format == "int8":
            return _by_torchao(
                _widened(matrix, scale).to(self.dtype), _quietly().Int8WeightOnlyConfig(set_inductor_config=False)
            )
        if matrix.dtype == torch.float8_e4m3fn:
            return self._float8(matrix, _per_row(matrix, scale))
        wide = _widened(matrix, scale)
        rows = wide.abs().amax(dim=1, keepdim=True).clamp(min=_LEAST_VALUE) / torch.finfo(torch.float8_e4m3fn).max
        return self._float8((wide / rows).to(torch.float8_e4m3fn), rows)

    def _float8(self, values: Tensor, scale: Float[Tensor, "r 1"]) -> Tensor:
        torchao = _quietly()
        like = _by_torchao(
            torch.ones(_FACTOR, _FACTOR, dtype=self.dtype, device=values.device), _float8_config(torchao, self.dynamic)
        )
        return torchao.Float8Tensor(
            values.contiguous(), scale, block_size=[1, values.shape[1]], mm_config=like.mm_config,
            act_quant_kwargs=like.act_quant_kwargs, kernel_preference=like.kernel_preference, dtype=self.dtype,
        )  # fmt: skip


def round_in_parts(layers: nn.Module, rows: int = ROWS) -> None:
    """Lets the quantised linear layers work on ``rows`` tokens at a time, for layers that are not compiled: torchao
    rounds activations through three float32 copies. Each token has a scale of its own, so the result is the same."""
    for module in layers.modules():
        if isinstance(module, nn.Linear) and type(module.weight.data) is not Tensor:
            module.forward = partial(_linear_in_parts, module, rows)


def _linear_in_parts(module: nn.Linear, rows: int, x: Float[Tensor, "*any c"]) -> Float[Tensor, "*any r"]:
    tokens = x.reshape(-1, x.shape[-1])
    if tokens.shape[0] <= rows:
        return F.linear(x, module.weight, module.bias)
    out = tokens.new_empty(tokens.shape[0], module.out_features)
    for start in range(0, tokens.shape[0], rows):
        out[start : start + rows] = F.linear(tokens[start : start + rows], module.weight, module.bias)
    return out.reshape(*x.shape[:-1], module.out_features)


def quantiser(chosen: Format, dtype: torch.dtype, device: torch.device | str) -> Quantiser | None:
    """What quantises for a model in ``dtype`` that computes on ``device``; None for format ``none``.

    UserError where torchao is missing, or cannot do it.
    """
    if chosen == "none":
        return None
    if dtype == torch.float64:
        raise UserError("a float64 model is not quantised", "model.quantization", "write quantization: none")
    _quietly()
    return Quantiser(chosen, dtype, rounds_activations(chosen, dtype) and multiplies_float8(device))


@cache
def _quietly() -> Any:
    """torchao's quantisation, imported without what it has to say about its optional kernels."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return require("torchao.quantization", "quant")
    finally:
        logging.disable(before)


def _float8_config(torchao: Any, dynamic: bool) -> Any:
    if not dynamic:
        return torchao.Float8WeightOnlyConfig(set_inductor_config=False)
    return torchao.Float8DynamicActivationFloat8WeightConfig(
        granularity=torchao.PerRow(), activation_value_lb=_LEAST_VALUE, set_inductor_config=False
    )


def _by_torchao(matrix: Tensor, config: Any) -> Tensor:
    """What torchao makes of the weight of a linear layer."""
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(matrix, requires_grad=False)
    _quietly().quantize_(linear, config)
    return linear.weight.data


def _per_row(matrix: Tensor, scale: Tensor | None) -> Float[Tensor, "r 1"]:
    """The scale of each row of a matrix that a file has in float8."""
    if scale is None:
        return torch.ones(matrix.shape[0], 1, device=matrix.device)
    return scale.to(matrix.device, torch.float32).reshape(-1, 1).expand(matrix.shape[0], 1).contiguous()


def _widened(matrix: Tensor, scale: Tensor | None) -> Tensor:
    """The float32 matrix."""
    wide = matrix.float()
    return wide if scale is None else wide * _per_row(matrix, scale)
