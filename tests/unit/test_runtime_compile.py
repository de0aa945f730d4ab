"""Compiled layers: one graph for those that are alike, and none at all where compiling fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from training_kit import kit_installed, write_recipe

from ovikit.networks.joint import JointModel
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.streaming import LayerStream
from ovikit.types import AV

DEPTH = 4


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        torch.compiler.reset()
        yield
        torch.compiler.reset()


def parts(folder: Path) -> tuple[JointModel, Callable[[], AV[Tensor]]]:
    """A model and a call of it."""
    depths = (f"model.video.depth={DEPTH}", f"model.audio.depth={DEPTH}")
    recipe = load_recipe(write_recipe(folder), depths)
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    model = build.build_model(recipe, codecs, conditioner).eval()
    text, sigma = conditioner.encode(["ab"]), torch.tensor([0.5], dtype=torch.float64)
    latents = codecs.map(lambda codec: torch.linspace(-1, 1, 0x1000)[: codec.grid().__len__() * codec.channels])
    latents = latents.zip(codecs, lambda x, codec: x.reshape(1, *codec.shape()))

    def call() -> AV[Tensor]:
        with torch.no_grad():
            contexts = model.embed_text(AV(text, text), cache=True)
            return model(latents, AV(sigma, sigma), contexts, codecs.map(lambda codec: codec.grid()))

    return model, call


def counting(graphs: list[fx.GraphModule]) -> Callable[..., Any]:
    """A backend that runs what was traced as it is."""

    def backend(graph: fx.GraphModule, inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


def close(one: AV[Tensor], other: AV[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.unchecked_shapes
def test_layers_that_are_alike_share_a_graph(tmp_path: Path) -> None:
    model, call = parts(tmp_path)
    expected, names, graphs = call(), list(model.state_dict()), []
    compile_layers(model, counting(graphs))
    assert close(call(), expected)
    assert close(call(), expected)
    assert len(graphs) == 1
    assert list(model.state_dict()) == names


@pytest.mark.unchecked_shapes
def test_streamed_layers_share_it_too(tmp_path: Path) -> None:
    model, call = parts(tmp_path)
    expected, graphs = call(), []
    compile_layers(model, counting(graphs))
    stream = LayerStream(list(model.layers), "cpu", 2)
    model.visit = stream.visit
    for _ in range(2):
        stream.open()
        assert close(call(), expected)
        stream.close()
    assert len(graphs) == 1


@pytest.mark.unchecked_shapes
def test_where_it_fails_all_layers_run_as_written_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, call = parts(tmp_path)
    expected = call()

    def backend(graph: fx.GraphModule, inputs: object) -> Any:
        raise RuntimeError("no compiler on this machine")

    compile_layers(model, backend)
    with caplog.at_level(logging.WARNING, "ovikit.runtime.compile"):
        first, second = call(), call()
    assert all(torch.equal(a, b) for a, b in zip(first.values(), expected.values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(second.values(), expected.values(), strict=True))
    told = [one.getMessage() for one in caplog.records if one.name == "ovikit.runtime.compile"]
    assert len(told) == 1
    assert "they run uncompiled" in told[0]
    assert "no compiler on this machine" in told[0]
    assert all("forward" not in vars(layer) for layer in model.layers)


def test_an_error_of_the_layers_own_is_not_hidden(tmp_path: Path) -> None:
    model, call = parts(tmp_path)
    compile_layers(model, counting([]))
    model.layers[2].blocks["video"].ffn.weight = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(RuntimeError):
        call()
