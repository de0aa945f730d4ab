"""Training on 2 and 4 processes (gloo): the steps of one process, by DDP and by FSDP2, also with the tokens of a clip
spread over two of them, and checkpoints that any number of processes goes on from."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovikit.layout import read_metrics
from ovikit.training.checkpoints import checkpoint_weights
from ovikit.training.sharded import read_shares, write_share

ROOT = Path(__file__).parents[2]
TOWER = (
    "{type: wan-tower, width: 32, feed_forward_width: 64, heads: 2, depth: 2, frequency_width: 16, patch: [1, 1, 1]}"
)
RECIPE = f"""\
extends: {ROOT / "recipes/tiny/ovi.yaml"}
name: scale
model:
  video: {TOWER}
  audio: {TOWER}
training:
  data: {{type: toyworld, clips: 12, seed: 0}}
  batch_size: 1
  micro_batches: 4
  first_frame: 0.0
  ema: {{decay: 0.9}}
  trainer: {{max_steps: 6, checkpoint_every_steps: 3, log_every_steps: 2}}
"""


def train(folder: Path, name: str, processes: int, *options: str) -> Path:
    """The folder of a run of so many processes."""
    run = folder / name
    command = _command(folder, run, processes, *options)
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return run


def _command(folder: Path, run: Path, processes: int, *options: str) -> list[str]:
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        recipe.write_text(RECIPE)
    start = ["-m", "ovikit"]
    if processes > 1:
        start = [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(processes),
            "--master-port",
            "0",
            "-m",
            "--",
            "ovikit",
        ]
        start[5] = str(29500 + os.getpid() % 2000)
    return [sys.executable, *start, "train", str(recipe), "--run", str(run), *options]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def overrides(*changes: str) -> list[str]:
    return [word for one in changes for word in ("-o", f"training.trainer.{one}")]


def interrupted(run: Path, name: str, step: int = 3) -> Path:
    """A run as it was when it had written a checkpoint of that step."""
    copy = run.with_name(name)
    shutil.copytree(run, copy, symlinks=True)
    (copy / "weights.safetensors").unlink()
    last, kept = copy / "checkpoints" / "last.ckpt", copy / "checkpoints" / f"step-{step:06d}.ckpt"
    last.unlink()
    if kept.is_dir():
        last.symlink_to(kept.name)
    else:
        shutil.copy(kept, last)
    return copy


def curves(run: Path) -> list[list[float]]:
    return [[float(row[name]) for name in ("step", "loss", "loss_video", "loss_audio", "lr", "grad_norm")]
            for row in read_metrics(run / "metrics.csv")]  # fmt: skip


def same(run: Path, other: Path) -> None:
    """The same losses and the same averaged weights, to the order in which gradients are added."""
    torch.testing.assert_close(torch.tensor(curves(run)), torch.tensor(curves(other)), rtol=2e-5, atol=2e-5)
    same_weights(load_file(run / "weights.safetensors"), load_file(other / "weights.safetensors"))


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=1e-4, atol=1e-5, msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("scale"), "alone", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "options"),
    [(4, ("strategy=ddp", "sequence=2")), (2, ("strategy=fsdp",)),
     (4, ("strategy=fsdp", "sequence=2", "checkpoints=sharded", "activation_checkpointing=true"))],
)  # fmt: skip
def test_several_processes_train_as_one_and_any_number_goes_on(
    alone: Path, processes: int, options: Sequence[str], tmp_path: Path
) -> None:
    run = train(tmp_path, "several", processes, *overrides(*options))
    same(run, alone)
    same_weights(checkpoint_weights(run / "checkpoints" / "step-000003.ckpt"),
                 checkpoint_weights(alone / "checkpoints" / "step-000003.ckpt"))  # fmt: skip
    fewer = processes // 2
    changed = overrides("strategy=auto", "checkpoints=whole") if fewer == 1 else overrides(*options)
    if "activation_checkpointing=true" in options and fewer == 1:
        changed += overrides("activation_checkpointing=true")
    again = interrupted(run, "resumed")
    assert train(tmp_path, "resumed", fewer, "--resume", *changed) == again
    same(again, alone)


@pytest.mark.slow
def test_what_one_process_began_several_finish(alone: Path, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path / "alone")
    again = interrupted(tmp_path / "alone", "resumed")
    train(tmp_path, "resumed", 2, "--resume", *overrides("strategy=fsdp"))
    same(again, alone)


@pytest.mark.slow
def test_lightning_starts_the_processes_of_a_machine(alone: Path, tmp_path: Path) -> None:
    same(train(tmp_path, "devices", 1, *overrides("devices=2")), alone)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(alone: Path, tmp_path: Path) -> None:
    options = overrides("max_steps=100000", "devices=2", "checkpoint_every_steps=100000", "log_every_steps=1")
    run = tmp_path / "run"
    with subprocess.Popen(
        _command(tmp_path, run, 1, *options), env=_environment(), stdout=subprocess.PIPE, text=True
    ) as one:
        until = time.monotonic() + 120
        while not (run / "metrics.csv").exists() or len(read_metrics(run / "metrics.csv")) < 3:
            assert one.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        one.send_signal(signal.SIGTERM)
        told, _ = one.communicate(timeout=120)
    assert one.returncode == 128 + signal.SIGTERM
    assert "go on with:" in told
    assert len(list((run / "checkpoints").glob("step-*.ckpt"))) == 1


def test_shares_become_one_checkpoint_again(tmp_path: Path) -> None:
    """What is not shared out is kept as it is. (Runs of several processes are in the tests above.)"""
    state = {"state": {"model.a": {"exp_avg": torch.arange(3.0)}}, "param_groups": [{"params": ["model.a"], "lr": 0.1}]}
    whole = {"state_dict": {"model.a": torch.arange(6.0).view(3, 2)}, "optimizer_states": [state], "global_step": 7}
    write_share(tmp_path, whole, 0, 1)
    found = read_shares(tmp_path)
    assert torch.equal(found["state_dict"]["model.a"], whole["state_dict"]["model.a"])
    (numbered,) = found["optimizer_states"]
    assert torch.equal(numbered["state"][0]["exp_avg"], state["state"]["model.a"]["exp_avg"])
    assert numbered["param_groups"] == [{"params": [0], "lr": 0.1}]
    assert found["global_step"] == 7
