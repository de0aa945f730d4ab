"""The project's main claim, with fewer steps than the demo's: fusion lets picture and sound agree; without it they meet
by chance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = 550


def measured(recipe: str, run: Path, truth: Path) -> dict:
    """The onset F1 of a recipe's clips, as ``results.json`` has it."""
    steps = f"training.trainer.max_steps={STEPS}"
    command = ["demo", "--recipe", f"recipes/tiny/{recipe}.yaml", "--run", str(run), "-o", steps]
    if truth.is_dir():  # the ground truth is the same, and so are its files
        run.mkdir(parents=True, exist_ok=True)
        (run / "truth").symlink_to(truth)
    subprocess.run(
        [sys.executable, "-c", "from ovikit.cli import main; main()", *command], check=True, cwd=ROOT, timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads((run / "results.json").read_text())["metrics"]["onset_f1"]


@pytest.mark.slow
def test_fusion_makes_them_agree_and_nothing_else_does(tmp_path: Path) -> None:
    fused = measured("ovi", tmp_path / "ovi", tmp_path / "ovi" / "truth")
    assert fused["scored"] >= 64
    assert fused["share"]["value"] >= 0.7, fused
    alone = measured("no-fusion", tmp_path / "alone", tmp_path / "ovi" / "truth")
    low, high = alone["interval"]
    assert low <= alone["chance"]["value"] <= high, alone
    assert fused["interval"][0] > high
