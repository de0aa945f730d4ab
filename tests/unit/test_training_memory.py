"""What makes training fit: recomputed layers, averages on the host, short optimizer states. None of it changes more
than it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_kit import kit_installed, write_recipe

from ovikit.networks.joint import JointModel
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.recompute import checkpoint_layers, forget_checkpointing
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.run import train
from ovikit.types import AV, Text


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def trained(folder: Path, name: str, *overrides: str, dropout: bool = False) -> dict[str, Tensor]:
    tower = "video: {type: kit-tower}"
    change = (tower, "video: {type: kit-tower, dropout: 0.5}") if dropout else ("", "")
    recipe = load_recipe(write_recipe(folder, *change), overrides)
    torch.manual_seed(3)
    found = train(recipe, folder / name).weights
    assert found is not None
    return load_file(found)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dropout", [False, True])
def test_recomputed_layers_train_to_the_same_bits(tmp_path: Path, dropout: bool) -> None:
    plain = trained(tmp_path, "plain", dropout=dropout)
    again = trained(tmp_path, "again", "training.trainer.activation_checkpointing=true", dropout=dropout)
    assert equal(plain, again)


def test_an_average_on_the_host_is_the_same(tmp_path: Path) -> None:
    assert equal(trained(tmp_path, "device"), trained(tmp_path, "host", "training.ema.on=host"))


class Step:
    """The kit's model with one input; how many bytes its forward keeps for the backward."""

    def __init__(self, folder: Path) -> None:
        recipe = load_recipe(write_recipe(folder), ())
        codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
        self.model: JointModel = build.build_model(recipe, codecs, conditioner)
        self.grids = codecs.map(lambda codec: codec.grid())
        generator = torch.Generator().manual_seed(1)
        self.latents = codecs.map(lambda codec: torch.randn(2, *codec.shape(), generator=generator))
        self.text = Text(torch.randn(2, 3, conditioner.width, generator=generator), torch.tensor([3, 2]))

    def gradients(self) -> tuple[Tensor, int]:
        kept: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return x

        self.model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            context = self.model.embed_text(AV(self.text, self.text), cache=False)
            sigma = self.latents.map(lambda x: torch.full((2,), 0.5))
            found = self.model(self.latents, sigma, context, self.grids)
            loss = torch.stack([one.square().mean() for one in found.values()]).sum()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None]), sum(kept.values())


def test_recomputed_layers_keep_less(tmp_path: Path) -> None:
    step = Step(tmp_path)
    plain, much = step.gradients()
    checkpoint_layers(step.model)
    again, little = step.gradients()
    assert torch.equal(plain, again)
    assert little < much / 2
    forget_checkpointing(step.model)
    assert step.gradients()[1] == much


def test_compiled_layers_that_are_recomputed_have_the_same_gradients(tmp_path: Path) -> None:
    step = Step(tmp_path)
    plain, _ = step.gradients()
    checkpoint_layers(step.model)
    compile_layers(step.model, backend="aot_eager")
    compiled, _ = step.gradients()
    assert torch.allclose(plain, compiled, rtol=1e-5, atol=1e-7)


def optimizer(kind: str, rates: dict[str, float]) -> AdamWCosine:
    return AdamWCosine(
        steps=100, learning_rate=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, warmup_steps=0,
        final_fraction=1.0, rates=rates, kind=kind,  # type: ignore[arg-type]
    )  # fmt: skip


def test_each_part_learns_at_its_own_rate(tmp_path: Path) -> None:
    """The first step of Adam moves every weight by the learning rate, whatever its gradient."""
    model = Step(tmp_path).model
    rates = {"video": 1.0, "audio": 3.0, "fusion": 0.5}
    made, schedule = optimizer("adamw", rates)(model, fused=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    schedule.step()
    assert len(made.param_groups) == 6
    for name, parameter in model.named_parameters():
        part = "audio" if ".audio." in name and "fusion" not in name else "video" if "fusion" not in name else "fusion"
        decay = 0.1 if parameter.ndim > 1 else 0.0
        rate = 0.01 * rates[part]
        wanted = before[name] * (1 - rate * decay) - rate
        assert torch.allclose(parameter, wanted, atol=1e-6), name


def test_short_states_learn_nearly_the_same(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 128, generator=generator)
    wanted = torch.randn(64, 128, generator=generator)
    found: dict[str, Tensor] = {}
    for kind in ("adamw", "adamw-8bit"):
        layer = nn.Linear(128, 64, bias=True)
        with torch.no_grad():
            layer.weight.copy_(start)
            layer.bias.zero_()
        made, _ = optimizer(kind, {})(layer, fused=False)
        for _ in range(20):
            made.zero_grad()
            (layer.weight - wanted).square().sum().backward()
            layer.bias.grad = torch.ones_like(layer.bias)
            made.step()
        found[kind] = layer.weight.detach()
        state = made.state[layer.weight]
    numbers = [value for value in state.values() if isinstance(value, Tensor) and value.shape == start.shape]
    assert {value.dtype for value in numbers} == {torch.uint8}
    moved = (found["adamw"] - start).norm()
    assert (found["adamw"] - found["adamw-8bit"]).norm() < 0.05 * moved


def test_short_states_are_resumed_exactly(tmp_path: Path) -> None:
    def step(layer: nn.Module, made: torch.optim.Optimizer, turn: int) -> None:
        x = torch.randn(3, 128, generator=torch.Generator().manual_seed(turn))
        made.zero_grad()
        layer(x).square().sum().backward()
        made.step()

    whole = nn.Linear(128, 64)
    parts = nn.Linear(128, 64)
    parts.load_state_dict(whole.state_dict())
    for turns in ((whole, range(9)), (parts, range(5))):
        made, _ = optimizer("adamw-8bit", {})(turns[0], fused=False)
        for turn in turns[1]:
            step(turns[0], made, turn)
    torch.save({"weights": parts.state_dict(), "optimizer": made.state_dict()}, tmp_path / "kept.ckpt")
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)
    again = nn.Linear(128, 64)
    again.load_state_dict(kept["weights"])
    made, _ = optimizer("adamw-8bit", {})(again, fused=False)
    made.load_state_dict(kept["optimizer"])
    for turn in range(5, 9):
        step(again, made, turn)
    assert torch.equal(again.weight, whole.weight)
    assert torch.equal(again.bias, whole.bias)
