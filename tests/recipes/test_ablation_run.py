"""``ovikit ablate`` run for real: cells in processes of their own, interrupted, failing, and never run twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ablation_kit import MATRIX, planned, write_files

from ovikit.ablation.cells import Plan
from ovikit.ablation.store import Store
from ovikit.recipe import build

pytestmark = pytest.mark.slow

ONE_SEED = MATRIX.replace("seeds: [0, 1]", "seeds: [0]")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ovikit", "ablate", str(folder / "matrix.yaml"), "--out", str(folder / "store")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip


def ablate(folder: Path, *arguments: str, status: int = 0) -> str:
    done = start(folder, *arguments)
    told, _ = done.communicate(timeout=900)
    assert done.returncode == status, told
    return told


def records(plan: Plan, store: Store) -> dict[str, dict]:
    return {cell.label: store.record(cell) or {} for cell in plan.cells}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a matrix that was run, two cells at once, and what the command told."""
    folder = tmp_path_factory.mktemp("ablation")
    write_files(folder, ONE_SEED.replace("none: {", "twice: {sampling.steps: 4}\n    none: {"))
    return folder, ablate(folder, "--jobs", "2")


def test_every_cell_is_measured_at_each_point_with_its_cost(finished: tuple[Path, str]) -> None:
    folder, told = finished
    plan, store = planned(folder / "matrix.yaml"), Store(folder / "store")
    found = records(plan, store)
    assert {one["state"] for one in found.values()} == {"finished"}
    for cell in plan.cells:
        record = found[cell.label]
        assert [point["step"] for point in record["measured"]] == [2, 4]
        model = build.build_model(cell.recipe, build.build_codecs(cell.recipe), build.build_conditioner(cell.recipe))
        assert record["cost"]["parameters"]["all"] == sum(p.numel() for p in model.parameters())
        assert record["cost"]["evaluations_per_clip"] == cell.recipe.sampling.steps
    assert found["none seed 0"]["cost"]["parameters"]["fusion"] == 0
    assert "report: " in told


def test_cells_that_differ_in_sampling_alone_were_trained_once(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert len(list((folder / "store/trainings").iterdir())) == 2
    found = records(planned(folder / "matrix.yaml"), Store(folder / "store"))
    costs = [one["cost"]["training_seconds"] for one in found.values()]
    assert len(set(costs)) == 2


def test_what_is_finished_is_not_run_again(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    clips = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.mp4")}
    told = ablate(folder)
    assert "3 of 3 cells are finished already" in told
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.mp4")} == clips


def test_a_dry_run_says_what_would_be_run_and_runs_nothing(tmp_path: Path) -> None:
    write_files(tmp_path)
    told = ablate(tmp_path, "--dry-run")
    assert "4 cells of 4 trainings; 4 cells to run, about 0:" in told
    assert "model.fusion: ovi -> none" in told
    assert not (tmp_path / "store/cells").exists()


def test_a_cell_that_fails_is_told_and_the_others_go_on_and_it_is_tried_again(tmp_path: Path) -> None:
    # The learning rate of one arm makes its loss infinite within the first steps.
    wild = "wild: {training.optimizer.learning_rate: 1.0e30, training.optimizer.warmup_steps: 0}"
    path = write_files(tmp_path, ONE_SEED.replace("none: {model.fusion: {type: none}}", wild))
    told = ablate(tmp_path)
    plan, store = planned(path), Store(tmp_path / "store")
    found = records(plan, store)
    assert found["ovi seed 0"]["state"] == "finished"
    assert found["wild seed 0"]["state"] == "failed"
    assert "is not finite at step" in found["wild seed 0"]["reason"]
    assert "wild seed 0: failed: " in told
    before = found["ovi seed 0"]
    assert "wild seed 0: failed: " in ablate(tmp_path)
    assert records(plan, store)["ovi seed 0"] == before


def test_a_run_that_is_interrupted_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    long = ONE_SEED.replace("{steps: 4}", "{steps: 120}").replace("    none: {model.fusion: {type: none}}\n", "")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    for folder in (cut, whole):
        folder.mkdir()
        write_files(folder, long)
    running = start(cut)
    metrics = cut / "store/trainings"
    deadline = time.monotonic() + 300
    while not any(path.read_text().count("\n") > 2 for path in metrics.glob("*/metrics.csv")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    told, _ = running.communicate(timeout=300)
    assert running.returncode == 128 + signal.SIGINT, told
    assert "go on with: ovikit ablate" in told
    plan = planned(cut / "matrix.yaml")
    assert Store(cut / "store").state(plan.cells[0]) == "begun"
    ablate(cut)
    ablate(whole)
    first, second = (Store(folder / "store").record(plan.cells[0]) or {} for folder in (cut, whole))
    assert first["measured"] == second["measured"]
    assert first["cost"]["losses"] == second["cost"]["losses"]


def test_a_record_is_never_half_written(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for path in (folder / "store/cells").glob("*/cell.json"):
        assert json.loads(path.read_text())["state"] == "finished"
    assert list((folder / "store").rglob(".*-????????.json")) == []
