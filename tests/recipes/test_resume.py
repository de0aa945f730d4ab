"""Resuming with the first-party parts: the tower, the fusion, the codecs and the world, at a few steps."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ovikit.recipe.load import load_recipe
from ovikit.training import run as runs

PARENT = Path(__file__).parents[2] / "recipes/tiny/clip.yaml"
RECIPE = f"""\
version: 1
name: resume
extends: {PARENT}
training:
  data: {{type: toyworld, clips: 5}}
  batch_size: 3
  text_dropout: 0.2
  trainer: {{max_steps: 5, log_every_steps: 1, checkpoint_every_steps: 2}}
"""


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as handle:
        return [{key: value for key, value in row.items() if key != "elapsed_s"} for row in csv.DictReader(handle)]


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resume.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "resume.yaml")
    runs.train(recipe, tmp_path / "whole")
    real = runs.JointTraining.training_step

    def stops(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(runs.JointTraining, "training_step", stops)
        assert runs.train(recipe, tmp_path / "parts").step == 3
    runs.train(recipe, tmp_path / "parts", resume=True)

    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    ends = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "parts")]
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name]), name
    for a, b in zip(*(end["optimizer_states"][0]["state"].values() for end in ends), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
