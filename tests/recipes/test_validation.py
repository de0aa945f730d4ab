"""Clips that are made and scored while a run trains: beside it, and without a trace in it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovikit.errors import UserError
from ovikit.layout import read_metrics
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.training.run import train

WATCHED = Path(__file__).parents[2] / "recipes/tiny/watched.yaml"
SMALL = (
    "training.data.clips=16", "training.batch_size=4", "training.trainer.max_steps=4", "sampling.steps=2",
    "training.trainer.log_every_steps=1", "training.trainer.checkpoint_every_steps=4",
)  # fmt: skip


def watched(*overrides: str) -> Recipe:
    return load_recipe(
        WATCHED, (*SMALL, "training.validation.every_steps=2", "training.validation.prompts=2", *overrides)
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_validation_leaves_training_as_it_is_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    weights = train(watched(), run).weights
    plain = train(load_recipe(WATCHED, (*SMALL, "training.validation=null")), tmp_path / "plain").weights
    assert weights is not None
    assert plain is not None
    one, other = load_file(weights), load_file(plain)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    told = rows(run / "validation.csv")
    assert [row["step"] for row in told] == ["2"] * 5 + ["4"] * 5
    results = json.loads((run / "validation/step-000004/results.json").read_text())
    for row in told[5:]:
        metric = results["metrics"][row["metric"]]
        assert row["value"] == ("" if metric["value"] is None else str(metric["value"]))
        assert row["value"] or row["reason"]
    assert sorted(path.name for path in (run / "validation/step-000002/clips").glob("*.mp4")) == [
        "00000.mp4",
        "00001.mp4",
    ]
    assert not list((run / "checkpoints").glob("*.safetensors"))
    _in_tensorboard(run)

    # killed after the checkpoint of step 2 and before its validation
    shutil.rmtree(run / "validation/step-000002")
    (run / "weights.safetensors").unlink()
    shutil.copy(run / "checkpoints/step-000002.ckpt", run / "checkpoints/last.ckpt")
    again = train(watched(), run, resume=True).weights
    assert again is not None
    assert (run / "validation/step-000002/results.json").is_file()
    assert all(torch.equal(value, one[name]) for name, value in load_file(again).items())
    assert [row["step"] for row in rows(run / "validation.csv")] == ["2"] * 5 + ["4"] * 5


def _in_tensorboard(run: Path) -> None:
    """The event files hold the rows of metrics.csv, the scores, and clips of both modalities."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "audio": 0})
    events.Reload()
    for name in ("loss", "loss_video", "loss_audio", "grad_norm"):
        kept = [(one.step, one.value) for one in events.Scalars(name)]
        wanted = [(int(row["step"]), float(row[name])) for row in read_metrics(run / "metrics.csv")]
        assert [step for step, _ in kept] == [step for step, _ in wanted]
        assert [value for _, value in kept] == pytest.approx([value for _, value in wanted], rel=1e-5)
    assert [one.step for one in events.Scalars("validation/onset_f1")] == [2, 4]
    assert {"clips/00000", "clips/00001"} <= set(events.Tags()["images"])
    assert {"clips/00000", "clips/00001"} <= set(events.Tags()["audio"])


@pytest.mark.slow
def test_a_validation_that_fails_leaves_the_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "validation").write_text("in the way")
    with pytest.raises(UserError, match=r"the validation of step-000002 failed: .*\n.*its checkpoint is whole"):
        train(watched("training.trainer.loggers=[]"), run)
    assert torch.load(run / "checkpoints/step-000002.ckpt", weights_only=True)["global_step"] == 2


def test_what_cannot_be_validated_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no suite"):
        load_recipe(WATCHED, ("evaluation=null",))
    with pytest.raises(UserError, match=r"no-such-suite\.yaml"):
        train(watched("training.validation.suite=no-such-suite.yaml"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_watching_is_no_part_of_what_a_run_is() -> None:
    assert watched().digest == watched("training.validation=null", "training.trainer.loggers=[]").digest
