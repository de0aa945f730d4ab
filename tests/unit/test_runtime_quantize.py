"""Matrices in 8 bits: which, how far off, and how large."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ovikit.errors import UserError
from ovikit.runtime.quantize import Quantiser, covers, quantiser, round_in_parts, rounds_activations, stored_bytes
from ovikit.runtime.streaming import plain_parts

pytest.importorskip("torchao")
BOUNDS = {"int8": 0.01, "fp8": 0.04}
"""Relative error of a product with a normal matrix: rounding to 1/127 of a row's largest value, or to 4 bits."""


def made(chosen: str, dtype: torch.dtype = torch.float32) -> Quantiser:
    found = quantiser(chosen, dtype, "cpu")
    assert found is not None
    return found


def matrix(seed: int = 0) -> torch.Tensor:
    return torch.randn(128, 192, generator=torch.Generator().manual_seed(seed))


def test_the_large_matrices_of_layers_are_covered_and_nothing_else() -> None:
    assert covers("layers.3.blocks.video.ffn.0.weight", (14336, 3072))
    assert covers("layers.3.fusion.reads.audio.k.weight", (3072, 3072))
    assert not covers("layers.3.blocks.video.ffn.0.bias", (14336,))
    assert not covers("layers.3.blocks.video.modulation_bias", (1, 6, 3072))
    assert not covers("towers.video.text_embedding.0.weight", (3072, 4096))
    assert not covers("layers.0.blocks.video.ffn.0.weight", (32, 3072))
    assert not covers("layers.0.blocks.video.ffn.0.weight", (100, 3072))


@pytest.mark.parametrize("chosen", ["int8", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_off_by_no_more_than_the_rounding(chosen: str, dtype: torch.dtype) -> None:
    x, bias = torch.randn(5, 192, dtype=dtype), torch.randn(128, dtype=dtype)
    exact = F.linear(x.double(), matrix().double(), bias.double())
    found = F.linear(x, made(chosen, dtype)(matrix()), bias)
    assert found.dtype == dtype
    slack = 0.01 if dtype == torch.bfloat16 else 0.0
    assert ((found.double() - exact).norm() / exact.norm()).item() < BOUNDS[chosen] + slack


@pytest.mark.parametrize("chosen", ["int8", "fp8"])
def test_a_row_of_zeros_stays_one(chosen: str) -> None:
    weight = matrix()
    weight[7] = 0
    found = F.linear(torch.randn(3, 192), made(chosen)(weight))
    assert torch.isfinite(found).all()
    assert (found[:, 7] == 0).all()


@pytest.mark.parametrize("scale", [None, torch.tensor(0.3), torch.rand(128) + 0.5, torch.rand(128, 1) + 0.5])
def test_float8_of_a_file_is_not_rounded_again(scale: torch.Tensor | None) -> None:
    values = matrix().to(torch.float8_e4m3fn)
    found = made("fp8")(values, scale)
    assert torch.equal(plain_parts(found)[0].float(), values.float())
    wide = values.float() * (1 if scale is None else scale.reshape(-1, 1))
    assert torch.equal(found.dequantize(), wide)


def test_float8_of_a_file_can_become_int8() -> None:
    values, scale = matrix().to(torch.float8_e4m3fn), torch.tensor(0.3)
    found = made("int8")(values, scale).dequantize()
    assert ((found - values.float() * 0.3).norm() / (values.float() * 0.3).norm()).item() < BOUNDS["int8"]


@pytest.mark.parametrize("chosen", ["none", "int8", "fp8"])
def test_the_size_is_what_the_parts_take(chosen: str) -> None:
    name, weight = "layers.0.ffn.weight", matrix()
    held = weight if chosen == "none" else made(chosen)(weight)
    real = sum(part.numel() * part.element_size() for part in plain_parts(held))
    assert stored_bytes(name, weight, chosen) == pytest.approx(real, rel=0.01)


def test_activations_are_rounded_for_bfloat16_models_in_float8_alone() -> None:
    assert rounds_activations("fp8", torch.bfloat16)
    assert not rounds_activations("fp8", torch.float32)
    assert not rounds_activations("int8", torch.bfloat16)


def test_tokens_in_parts_give_the_same_product() -> None:
    linear = nn.Linear(192, 128).requires_grad_(False)
    linear.weight = nn.Parameter(made("fp8")(linear.weight), requires_grad=False)
    x = torch.randn(2, 33, 192)
    whole, names = linear(x), list(linear.state_dict())
    round_in_parts(nn.Sequential(linear), rows=10)
    assert linear(x).shape == whole.shape
    assert torch.allclose(linear(x), whole, atol=1e-5)
    assert list(linear.state_dict()) == names


def test_a_float64_model_is_not_quantised() -> None:
    with pytest.raises(UserError, match="a float64 model is not quantised"):
        quantiser("int8", torch.float64, "cpu")
