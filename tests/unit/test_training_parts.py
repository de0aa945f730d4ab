"""The parts of training, one by one: order of the clips, learning rate, dropped prompts, what is trained, the watch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from training_kit import kit_installed, write_recipe
from typer.testing import CliRunner

from ovikit.data.sampler import EpochSampler
from ovikit.data.seeds import generator_for
from ovikit.errors import UserError
from ovikit.layout import read_metrics
from ovikit.networks.joint import JointModel
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.training import Optimizer
from ovikit.training.batches import drop_text
from ovikit.training.display import training_table
from ovikit.training.ema import Ema
from ovikit.training.metrics import CsvLog
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.parameters import count_parameters, part_of, select_trained
from ovikit.training.watch import LossWatch, NonFiniteError
from ovikit.types import Text


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def kit_model(folder: Path) -> JointModel:
    recipe = load_recipe(write_recipe(folder))
    return build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))


@pytest.mark.parametrize(("clips", "size"), [(7, 3), (8, 4), (2, 5)])
def test_every_clip_comes_once_per_epoch(clips: int, size: int) -> None:
    sampler = EpochSampler((clips,), size, seed=3)
    drawn = [index for step in range(clips * 2) for index in sampler.batch(step)[1]]
    for epoch in range(2):
        assert Counter(drawn[epoch * clips : (epoch + 1) * clips]) == Counter(range(clips))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    sampler = EpochSampler((50,), 50, seed=3)
    later = sampler.batch(1)
    assert sampler.batch(0) != later
    assert EpochSampler((50,), 50, seed=3).batch(1) == later
    assert EpochSampler((50,), 50, seed=4).batch(1) != later


@pytest.mark.parametrize(("buckets", "size"), [((7, 3), 3), ((1, 2, 30), 4), ((5, 5), 1), ((2, 1), 8)])
def test_batches_of_buckets(buckets: tuple[int, ...], size: int) -> None:
    sampler = EpochSampler(buckets, size, seed=3)
    epochs = 3 * size  # as many as end whole batches in every bucket
    batches = [sampler.batch(step) for step in range(sum(buckets) * 3)]
    for bucket, clips in enumerate(buckets):
        own = [place for b, places in batches for place in places if b == bucket]
        assert Counter(own) == dict.fromkeys(range(clips), epochs)
    assert all(len(places) == size for _, places in batches)
    # the order is one of that epoch, whatever was asked before
    assert [EpochSampler(buckets, size, seed=3).batch(step) for step in reversed(range(len(batches)))] == batches[::-1]


def test_generators_of_other_purposes_are_unrelated() -> None:
    drawn = {
        place: torch.rand(1, generator=generator_for(*place)).item()
        for place in [(0, "noise", 1), (0, "noise", 2), (1, "noise", 1), (0, "levels", 1), (0, "noise", 1, 1)]
    }
    assert len(set(drawn.values())) == 5


def test_learning_rate_warms_up_and_falls_by_a_cosine() -> None:
    schedule = AdamWCosine(
        steps=101, learning_rate=1.0, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, warmup_steps=4, final_fraction=0.1
    )
    assert [round(schedule.factor(step), 6) for step in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert schedule.factor(52) == pytest.approx(0.1 + 0.9 * 0.5)  # half way between step 4 and step 100
    assert schedule.factor(100) == pytest.approx(0.1)
    assert all(schedule.factor(step) > schedule.factor(step + 1) for step in range(4, 100))


def test_vectors_do_not_decay(tmp_path: Path) -> None:
    make = AdamWCosine(
        steps=1, learning_rate=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5, warmup_steps=0, final_fraction=1.0
    )
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer, _ = make(layer, fused=True)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(layer.weight, before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, before[1])


def test_dropped_prompts_become_the_empty_one() -> None:
    text = Text(torch.rand(3, 4, 2), torch.tensor([4, 2, 3]))
    empty = Text(torch.zeros(1, 4, 2), torch.tensor([1]))
    found = drop_text(text, empty, torch.tensor([False, True, False]))
    assert torch.equal(found.tokens[1], empty.tokens[0])
    assert torch.equal(found.tokens[[0, 2]], text.tokens[[0, 2]])
    assert found.lengths.tolist() == [4, 1, 3]
    assert drop_text(text, empty, torch.zeros(3, dtype=torch.bool)) is text


def test_names_tell_the_part(tmp_path: Path) -> None:
    model = kit_model(tmp_path)
    parts = {part_of(name) for name, _ in model.named_parameters()}
    assert parts == {"video", "audio", "fusion"}
    counts = count_parameters(model)
    assert sum(one.trained for one in counts.values()) == sum(p.numel() for p in model.parameters())
    fusion = sum(p.numel() for layer in model.layers for p in layer.fusion.parameters())
    assert counts["fusion"].trained == fusion


def test_freeze_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.freeze: the pattern 'layers.\*.fnn.\*' matches no parameter"):
        select_trained(kit_model(tmp_path), "joint", ["layers.*.fnn.*"])


def test_freezing_all_of_a_modality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage 'audio' trains audio, but every parameter of it is frozen"):
        select_trained(kit_model(tmp_path), "audio", ["*audio*"])


def test_watch_gives_means_since_it_was_asked() -> None:
    watch = LossWatch(["a"])
    for step, loss in enumerate([1.0, 3.0]):
        watch.record(step, {"loss": torch.tensor(loss)}, [0])
    assert watch.take_means() == {"loss": 2.0}
    watch.record(2, {"loss": torch.tensor(5.0)}, [0])
    other = LossWatch(["a"])
    other.load_state_dict(watch.state_dict())
    assert other.take_means() == watch.take_means() == {"loss": 5.0}
    assert watch.take_means() == {}


def test_watch_names_the_clips_of_the_first_bad_step() -> None:
    watch = LossWatch(["ant", "bee", "cow"])
    watch.record(4, {"loss": torch.tensor(1.0)}, [0])
    with pytest.raises(NonFiniteError, match="the loss is not finite at step 5; the batch was bee, cow"):
        watch.record(5, {"loss": torch.tensor(torch.inf)}, [1, 2])


def test_log_drops_rows_that_will_be_made_again_and_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, ("step", "loss"), start=0)
    for step in (10, 20, 30):
        log.log_metrics({"loss": step / 8}, step)
    with path.open("a") as handle:
        handle.write("4")
    CsvLog(path, ("step", "loss"), start=20).log_metrics({"loss": 9.0}, 30)
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [("10", "1.25"), ("20", "2.5"), ("30", "9.0")]
    CsvLog(path, ("step", "loss"), start=0)
    assert read_metrics(path) == []


def test_average_follows_its_rule(tmp_path: Path) -> None:
    from ovikit.training import run as runs

    recipe = load_recipe(write_recipe(tmp_path), ["training.trainer.checkpoint_every_steps=1"])
    runs.train(recipe, tmp_path / "run")
    name, expected = "towers.video.into.weight", None
    start = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))
    expected = dict(start.named_parameters())[name].detach()
    for step in range(1, 10):
        checkpoint = torch.load(tmp_path / f"run/checkpoints/step-{step:06d}.ckpt", weights_only=True)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * checkpoint["state_dict"][f"model.{name}"]
        assert torch.allclose(checkpoint["callbacks"][Ema.__name__]["average"][name], expected, atol=1e-7)


def test_table_says_what_is_trained(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    model, objective = kit_model(tmp_path), build.build_objective(recipe)
    select_trained(model, "joint", ["towers.video.*"])
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(training_table(model, objective, ("video", "audio"), 7, Optimizer(learning_rate=0.01)))
    text = console.export_text()
    video = next(line for line in text.splitlines() if " video " in line)
    frozen = sum(p.numel() for p in model.towers["video"].parameters())
    assert f" {frozen} " in video
    assert " 7 " in video
    assert "0.49 (0.05-0.95)" in video
    assert "as video's" in text


def test_command_trains_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    from test_training_run import stop_after

    from ovikit.cli import build_app

    path, run = write_recipe(tmp_path), tmp_path / "run"
    arguments = ["train", str(path), "--run", str(run), "-o", "training.trainer.max_steps=5"]
    with monkeypatch.context() as patched:
        stop_after(patched, 2, signal.SIGTERM)
        result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 128 + signal.SIGTERM
    assert "stopped at step 2 of 5" in result.output
    assert f"go on with: ovikit train {path} --run {run} -o training.trainer.max_steps=5 --resume" in result.output
    result = CliRunner().invoke(build_app(), [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
    assert "going on from step 2 of 5" in result.output
    assert "step 5/5  loss " in result.output
    assert (run / "weights.safetensors").exists()
    assert "finished: 5 steps" in CliRunner().invoke(build_app(), arguments).output


def test_help_has_an_example() -> None:
    from ovikit.cli import build_app

    assert "ovikit train recipes/tiny/ovi.yaml" in CliRunner().invoke(build_app(), ["train", "--help"]).output
