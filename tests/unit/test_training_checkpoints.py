"""The weights in a checkpoint: those of the run at that step, averaged or not, once in a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_kit import kit_installed, write_recipe

from ovikit.errors import UserError
from ovikit.generate.source import find_source
from ovikit.recipe.load import load_recipe
from ovikit.training import run as runs
from ovikit.training.checkpoints import checkpoint_weights, weights_of_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run, with checkpoints at steps 4, 8 and 9."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patched, kit_installed(patched):
        runs.train(load_recipe(write_recipe(folder)), folder / "run")
        yield folder / "run"


def checkpoint(run: Path, step: int) -> Path:
    return run / f"checkpoints/step-{step:06d}.ckpt"


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_at_the_last_step_they_are_the_final_weights(run: Path) -> None:
    assert same(checkpoint_weights(checkpoint(run, 9)), load_file(run / "weights.safetensors"))


def test_they_are_those_of_their_step_averaged_or_not(run: Path) -> None:
    kept = torch.load(checkpoint(run, 4), weights_only=True)
    plain = checkpoint_weights(checkpoint(run, 4), averaged=False)
    assert same({f"model.{name}": value for name, value in plain.items()}, kept["state_dict"])
    averaged = checkpoint_weights(checkpoint(run, 4))
    assert same(
        {name: averaged[name] for name in kept["callbacks"]["Ema"]["average"]}, kept["callbacks"]["Ema"]["average"]
    )
    assert not same(averaged, plain)
    assert not same(averaged, checkpoint_weights(checkpoint(run, 8)))


def test_what_is_frozen_is_not_averaged_and_there(tmp_path: Path, run: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, "  ema:", '  freeze: ["towers.*"]\n  ema:'))
    runs.train(recipe, tmp_path / "run")
    assert same(checkpoint_weights(checkpoint(tmp_path / "run", 9)), load_file(tmp_path / "run/weights.safetensors"))


def test_without_averages_they_are_the_last_weights(tmp_path: Path, run: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, "ema: {decay: 0.9}", "ema: null"))
    runs.train(recipe, tmp_path / "run")
    found = checkpoint_weights(checkpoint(tmp_path / "run", 4))
    assert same(found, checkpoint_weights(checkpoint(tmp_path / "run", 4), averaged=False))
    path = weights_of_checkpoint(tmp_path / "run", "step-000004")
    with safe_open(path, "pt") as handle:
        assert handle.metadata()["weights"] == "last"


def test_a_file_is_written_once_and_again_for_a_newer_checkpoint(run: Path) -> None:
    path = weights_of_checkpoint(run, "step-000004.ckpt")
    assert path == run / "checkpoints/step-000004.safetensors"
    assert same(load_file(path), checkpoint_weights(checkpoint(run, 4)))
    with safe_open(path, "pt") as handle:
        metadata = handle.metadata()
    digest = load_recipe(run / "recipe.lock.yaml").digest
    assert (metadata["step"], metadata["digest"], metadata["weights"]) == ("4", digest, "ema")
    later = checkpoint(run, 4).stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))
    assert weights_of_checkpoint(run, "step-000004") == path
    assert path.stat().st_mtime_ns == later
    # a link that now names another checkpoint: its weights are made anew
    last = run / "checkpoints/last.ckpt"
    weights = weights_of_checkpoint(run, "last")
    before = load_file(weights)
    os.utime(weights, ns=(1, 1))
    last.unlink()
    last.write_bytes(checkpoint(run, 4).read_bytes())
    assert not same(load_file(weights_of_checkpoint(run, "last.ckpt")), before)


def test_a_path_serves_as_a_name(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "kept.ckpt"
    copy.write_bytes(checkpoint(run, 8).read_bytes())
    assert same(load_file(weights_of_checkpoint(run, str(copy))), checkpoint_weights(checkpoint(run, 8)))
    assert weights_of_checkpoint(run, str(copy)) == tmp_path / "kept.safetensors"


def test_a_file_that_is_none_of_ours_is_left(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "weights.ckpt"
    copy.write_bytes(checkpoint(run, 8).read_bytes())
    final = tmp_path / "weights.safetensors"
    final.write_bytes((run / "weights.safetensors").read_bytes())
    with pytest.raises(UserError, match="would take the place of this file"):
        weights_of_checkpoint(run, str(copy))
    assert final.read_bytes() == (run / "weights.safetensors").read_bytes()


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.remove, ("harmless",)


def test_damaged_files_and_others_are_told(run: Path, tmp_path: Path) -> None:
    data = checkpoint(run, 8).read_bytes()
    for name, content in (
        ("half.ckpt", data[: len(data) // 2]),
        ("empty.ckpt", b""),
        ("pickle.ckpt", pickle.dumps(Harm())),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="this checkpoint cannot be read"):
            checkpoint_weights(tmp_path / name)
    torch.save({"step": 3}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="it holds no global_step, state_dict, callbacks"):
        checkpoint_weights(tmp_path / "other.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint_weights(tmp_path / "tensor.ckpt")


def test_a_name_that_is_not_there_is_told_with_those_that_are(run: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint 'step-5'\n.*step-000004.ckpt, step-000008.ckpt") as caught:
        weights_of_checkpoint(run, "step-5")
    assert "last.ckpt" in str(caught.value)
    with pytest.raises(UserError, match="not the folder of a run"):
        weights_of_checkpoint(run / "checkpoints", "last")


def test_a_source_takes_them_also_while_the_run_goes_on(run: Path, tmp_path: Path) -> None:
    weights = weights_of_checkpoint(run, "step-000004")
    assert find_source(run, trained=weights).network() == weights
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.lock.yaml").write_bytes((run / "recipe.lock.yaml").read_bytes())
    assert find_source(unfinished, trained=weights).network() == weights
    with pytest.raises(UserError, match="training has not ended"):
        find_source(unfinished)
