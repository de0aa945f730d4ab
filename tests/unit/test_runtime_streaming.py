"""Layers that lie in host memory: whichever is visited computes with its own weights, and nothing else changes."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from ovikit.checkpoints.load import place_all
from ovikit.runtime.quantize import quantiser
from ovikit.runtime.streaming import LayerStream, plain_parts, rebuilt

WIDTH = 64


class Layer(nn.Module):
    """Weights of several shapes and dtypes, and a buffer."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH * (3 if wide else 1)), nn.Tanh())
        self.gain = nn.Parameter(torch.randn(1).double())
        self.register_buffer("shift", torch.randn(3, 5).to(torch.bfloat16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.linear(x))[..., :WIDTH] * self.gain.float() + self.shift.float().sum()


def layers(count: int = 7) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(Layer(wide=i % 3 == 0) for i in range(count))


def run(stack: nn.ModuleList, order: list[int], stream: LayerStream | None = None) -> Tensor:
    x = torch.linspace(-1, 1, WIDTH)[None]
    for i in order:
        if stream is None:
            x = stack[i](x)
        else:
            with stream.visit(i):
                x = stack[i](x)
    return x


@torch.no_grad()
@pytest.mark.parametrize("slots", [1, 2, 3, 20])
def test_any_order_of_visits_computes_the_same(slots: int) -> None:
    expected, stack = layers(), layers()
    stream = LayerStream(list(stack), "cpu", slots)
    chance = random.Random(0)
    once = list(range(7))
    orders = [once + once, [0, 1, 2, 4, 5, 6] * 2, [6, 5, 4, 3], [2, 2, 2], chance.choices(once, k=30)]
    for order in orders:
        stream.open()
        assert torch.equal(run(stack, order, stream), run(expected, order))
        stream.close()


def test_names_and_weights_are_the_same_before_while_and_after() -> None:
    expected, stack = layers().state_dict(), layers()
    stream = LayerStream(list(stack), "cpu", 2)
    stream.open()
    host = [one.data_ptr() for one in stack.parameters()]
    with stream.visit(3):
        assert list(stack.state_dict()) == list(expected)
        assert {name for name, _ in stack.named_parameters()} == {name for name, _ in layers().named_parameters()}
        assert all(torch.equal(value, expected[name]) for name, value in stack.state_dict().items())
        assert [one.data_ptr() for one in stack.parameters()] != host
    assert [one.data_ptr() for one in stack.parameters()] == host
    stream.close()
    assert all(torch.equal(value, expected[name]) for name, value in stack.state_dict().items())


def test_an_error_in_a_layer_leaves_the_weights_where_they_were() -> None:
    stack = layers()
    stream = LayerStream(list(stack), "cpu", 2)
    stream.open()
    before = stack[1].linear.weight
    with pytest.raises(RuntimeError), stream.visit(1):
        stack[1](torch.zeros(1, WIDTH + 1))
    assert stack[1].linear.weight is before


def test_only_the_slots_are_on_the_device() -> None:
    stack = layers()
    sizes = [sum(one.numel() * one.element_size() for one in layer.parameters()) for layer in stack]
    stream = LayerStream(list(stack), "cpu", 3)
    assert 3 * max(sizes) <= stream.bytes_on_device < 3.1 * max(sizes)


@torch.no_grad()
@pytest.mark.parametrize("chosen", ["int8", "fp8"])
def test_quantised_layers_are_streamed_as_they_are(chosen: str) -> None:
    pytest.importorskip("torchao")
    quantise = quantiser(chosen, torch.float32, "cpu")
    assert quantise is not None
    pair = layers(), layers()
    for stack in pair:
        place_all(
            stack, lambda name, tensor, scale=None: quantise(tensor) if tensor.shape == (WIDTH, WIDTH) else tensor
        )
    kinds = {type(one) for one in pair[1].parameters()}
    stream = LayerStream(list(pair[1]), "cpu", 2)
    stream.open()
    assert torch.equal(run(pair[1], list(range(7)) * 2, stream), run(pair[0], list(range(7)) * 2))
    assert {type(one) for one in pair[1].parameters()} == kinds
    assert len(kinds) == 2


def test_a_tensor_is_rebuilt_from_its_parts() -> None:
    pytest.importorskip("torchao")
    quantise = quantiser("int8", torch.float32, "cpu")
    assert quantise is not None
    one, other = (quantise(torch.randn(WIDTH, WIDTH)) for _ in range(2))
    assert all(type(part) is Tensor for part in plain_parts(one))
    assert torch.equal(rebuilt(one, iter(plain_parts(other))).dequantize(), other.dequantize())
