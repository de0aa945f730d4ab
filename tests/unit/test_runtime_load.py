"""Large weights files: held against the model first, then read tensor by tensor to where each is to lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ovikit.checkpoints.format import CheckpointFormat
from ovikit.checkpoints.keymap import KeyMap, Rule
from ovikit.checkpoints.load import load_file_into, on_host, place_all, write_tensors
from ovikit.errors import UserError

SWAPPED = CheckpointFormat(
    "swapped",
    KeyMap([Rule("net.{r}.kernel", "{r}.weight", Tensor.t, Tensor.t), Rule("net.{r}", "{r}")]),
    anchors=("net.0.kernel",),
)


def model(device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.device(device):
        return nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 6)).to(dtype)


def written(path: Path, **others: Tensor) -> dict[str, Tensor]:
    """The tensors of a model, after they were written to a file, some of them replaced."""
    torch.manual_seed(0)
    tensors = {name: torch.randn_like(value) for name, value in model().state_dict().items()} | others
    write_tensors(path, tensors, {"step": "7"})
    return tensors


def test_every_tensor_arrives_in_the_models_dtype(tmp_path: Path) -> None:
    tensors = written(tmp_path / "w.safetensors")
    told: list[tuple[int, int]] = []
    empty = model("meta", torch.float64)
    metadata = load_file_into(
        empty, tmp_path / "w.safetensors", progress=lambda done, total: told.append((done, total))
    )
    assert metadata == {"step": "7"}
    assert all(torch.equal(value, tensors[name].double()) for name, value in empty.state_dict().items())
    assert all(one.requires_grad and one.is_leaf for one in empty.parameters())
    total = sum(one.numel() * 4 for one in tensors.values())
    assert told == sorted(told)
    assert told[-1] == (total, total)


def test_files_of_pytorch_are_read_alike(tmp_path: Path) -> None:
    tensors = written(tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pth")
    empty = model("meta")
    assert load_file_into(empty, tmp_path / "w.pth") == {}
    assert all(torch.equal(value, tensors[name]) for name, value in empty.state_dict().items())


def test_all_that_is_wrong_is_told_before_a_tensor_is_read(tmp_path: Path) -> None:
    tensors = written(tmp_path / "all.safetensors")
    del tensors["0.bias"]
    write_tensors(tmp_path / "w.safetensors", tensors | {"extra": torch.ones(1), "2.weight": torch.ones(6, 5)}, {})
    read: list[str] = []

    def place(name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
        read.append(name)
        return tensor

    with pytest.raises(UserError) as error:
        load_file_into(model("meta"), tmp_path / "w.safetensors", place=place)
    assert "1 tensors missing: 0.bias" in error.value.what
    assert "1 tensors not in the model: extra" in error.value.what
    assert "2.weight is (6, 5), the model has (6, 4)" in error.value.what
    assert read == []


def test_a_rule_may_change_the_tensor(tmp_path: Path) -> None:
    tensors = written(tmp_path / "ours.safetensors")
    write_tensors(tmp_path / "w.safetensors", {k: v.contiguous() for k, v in _named(tensors).items()}, {})
    empty = model("meta")
    load_file_into(empty, tmp_path / "w.safetensors", SWAPPED)
    assert all(torch.equal(value, tensors[name]) for name, value in empty.state_dict().items())


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named as ``SWAPPED`` has it; the norm's weight is one-dimensional, and its own transpose."""
    return SWAPPED.keymap.to_official(tensors)


def test_a_name_that_the_format_does_not_know_is_told(tmp_path: Path) -> None:
    written(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="the swapped format knows no tensor"):
        load_file_into(model("meta"), tmp_path / "w.safetensors", SWAPPED)


@pytest.mark.parametrize("spelling", ["0.weight_scale", "0.scale_weight"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (4, 1)])
def test_float8_times_its_scale_is_the_weight(tmp_path: Path, spelling: str, shape: tuple[int, ...]) -> None:
    values, scale = torch.randn(4, 6).to(torch.float8_e4m3fn), torch.rand(shape) + 0.5
    marks = {spelling: scale, "scaled_fp8": torch.zeros(0)}
    written(tmp_path / "w.safetensors", **{"0.weight": values}, **marks)
    empty = model("meta")
    load_file_into(empty, tmp_path / "w.safetensors")
    assert torch.equal(empty[0].weight, values.float() * (scale.reshape(-1, 1) if scale.numel() > 1 else scale))


def test_float8_without_a_scale_is_the_weight_itself(tmp_path: Path) -> None:
    values = torch.randn(4, 6).to(torch.float8_e4m3fn)
    written(tmp_path / "w.safetensors", **{"0.weight": values})
    empty = model("meta", torch.bfloat16)
    load_file_into(empty, tmp_path / "w.safetensors")
    assert torch.equal(empty[0].weight, values.to(torch.bfloat16))


def test_a_scale_goes_with_the_weight_through_a_rule_that_changes_it(tmp_path: Path) -> None:
    """A scale for each row of the model's matrix is one for each column of the file's."""
    tensors = _named(written(tmp_path / "ours.safetensors"))
    values, scale = torch.randn(6, 4).to(torch.float8_e4m3fn), torch.rand(6) + 0.5
    tensors |= {"net.0.kernel": values, "net.0.kernel_scale": scale}
    write_tensors(tmp_path / "w.safetensors", {name: one.contiguous() for name, one in tensors.items()}, {})
    empty = model("meta")
    load_file_into(empty, tmp_path / "w.safetensors", SWAPPED)
    assert torch.equal(empty[0].weight, (values.float() * scale[:, None]).t())


def test_weights_to_compute_with_on_the_cpu_lie_as_pytorch_lays_them(tmp_path: Path) -> None:
    """A mapped file has them at any multiple of eight bytes, where products may round in another way."""
    tensors = written(tmp_path / "w.safetensors")
    seen: list[int] = []

    def place(name: str, tensor: Tensor, scale: Tensor | None = None) -> Tensor:
        seen.append(tensor.data_ptr() % 64)
        return on_host(name, tensor)

    empty = model("meta")
    load_file_into(empty, tmp_path / "w.safetensors", place=place)
    assert any(seen)
    assert all(one.data_ptr() % 64 == 0 for one in empty.parameters())
    assert len(tensors) == len(seen)


def test_weights_that_are_there_are_put_in_their_place() -> None:
    torch.manual_seed(0)
    made = model()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    place_all(made, lambda name, tensor, scale=None: tensor * 2 if name == "0.weight" else tensor)
    assert torch.equal(made[0].weight, before["0.weight"] * 2)
    assert torch.equal(made[2].weight, before["2.weight"])
