"""A whole training run in a folder: what it writes, and that an interruption leaves no trace in the numbers."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from training_kit import kit_installed, write_recipe

from ovikit.errors import UserError
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.recipe.models import Recipe
from ovikit.training import run as runs
from ovikit.training.batches import Share
from ovikit.training.callbacks import Checkpoints
from ovikit.training.watch import NonFiniteError
from ovikit.training.world import World, find_world


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


def recipe_of(folder: Path, old: str = "", new: str = "", overrides: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(write_recipe(folder, old, new), overrides)


def rows_of(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the clock."""
    with (run / "metrics.csv").open(newline="") as handle:
        return [{key: value for key, value in row.items() if key != "elapsed_s"} for row in csv.DictReader(handle)]


def checkpoint_of(run: Path, step: int) -> dict[str, Any]:
    return torch.load(run / f"checkpoints/step-{step:06d}.ckpt", weights_only=True)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """The process sends itself a signal in the middle of a training step."""
    real = runs.JointTraining.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if (batch.step, batch.part) == (step - 1, 0):
            os.kill(os.getpid(), number)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(runs.JointTraining, "training_step", training_step)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal bit for bit, all the way down, apart from clocks."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in ("elapsed_s", "rng"):
                assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert one == other, where


# 7 clips in batches of 3: every step from the third on lies in the middle of an epoch
@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGTERM), (5, signal.SIGINT), (8, signal.SIGTERM)])
def test_resumed_run_equals_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals
) -> None:
    recipe = recipe_of(tmp_path)
    whole = runs.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, step, number)
        stopped = runs.train(recipe, tmp_path / "parts")
    assert (stopped.step, stopped.stopped_by, stopped.weights) == (step, number, None)
    assert stopped.checkpoint == tmp_path / f"parts/checkpoints/step-{step:06d}.ckpt"
    torch.rand(13)  # the state of the global generator between the two is nobody's business
    resumed = runs.train(recipe, tmp_path / "parts", resume=True)

    assert resumed.step == whole.step == 9
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    one, other = checkpoint_of(tmp_path / "whole", 9), checkpoint_of(tmp_path / "parts", 9)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "ovikit"):
        assert_same(one[key], other[key], key)
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), load_file(tmp_path / "parts/weights.safetensors"))


def test_run_killed_between_checkpoints_resumes_from_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path)
    runs.train(recipe, tmp_path / "whole")
    real = runs.JointTraining.training_step

    def dies(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 7:
            raise RuntimeError("power cut")
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(runs.JointTraining, "training_step", dies)
        with pytest.raises(RuntimeError, match="power cut"):
            runs.train(recipe, tmp_path / "parts")
    assert [row["step"] for row in rows_of(tmp_path / "parts")] == ["2", "4", "6"]
    runs.train(recipe, tmp_path / "parts", resume=True)  # from step 4: the row of step 6 is made again
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), load_file(tmp_path / "parts/weights.safetensors"))


def test_resume_is_exact_where_a_network_draws_from_the_global_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, "video: {type: kit-tower}", "video: {type: kit-tower, dropout: 0.5}")
    torch.manual_seed(5)
    runs.train(recipe, tmp_path / "whole")
    torch.manual_seed(5)
    with monkeypatch.context() as patched:
        stop_after(patched, 5, signal.SIGTERM)
        runs.train(recipe, tmp_path / "parts")
    torch.manual_seed(77)
    runs.train(recipe, tmp_path / "parts", resume=True)
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), load_file(tmp_path / "parts/weights.safetensors"))


def test_training_itself_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    torch.manual_seed(1)
    runs.train(recipe, tmp_path / "one")
    torch.manual_seed(2)
    runs.train(recipe, tmp_path / "two")
    assert_same(load_file(tmp_path / "one/weights.safetensors"), load_file(tmp_path / "two/weights.safetensors"))


def test_workers_make_the_same_batches(tmp_path: Path) -> None:
    runs.train(recipe_of(tmp_path), tmp_path / "none")
    runs.train(recipe_of(tmp_path, overrides=("training.trainer.workers=1",)), tmp_path / "one")
    assert rows_of(tmp_path / "none") == rows_of(tmp_path / "one")


def test_run_folder_holds_what_others_read(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    result = runs.train(recipe, tmp_path / "run")
    run = tmp_path / "run"
    assert load_recipe(run / "recipe.lock.yaml").digest == recipe.digest
    assert [row["step"] for row in rows_of(run)] == ["2", "4", "6", "8", "9"]
    names = ["step", "epoch", "loss", "loss_video", "loss_audio", "lr", "grad_norm"]
    assert list(rows_of(run)[0]) == names
    found = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert found == ["last.ckpt", "step-000004.ckpt", "step-000008.ckpt", "step-000009.ckpt"]
    assert result.weights == run / "weights.safetensors"
    with safe_open(run / "weights.safetensors", "pt") as handle:
        metadata = handle.metadata()
    assert metadata | {"format": ""} == {
        "recipe": "kit", "digest": recipe.digest, "step": "9", "weights": "ema", "format": "",
    }  # fmt: skip
    assert not list(run.rglob("*.tmp*"))
    assert not list(run.rglob(".*"))


def test_weights_are_the_average_and_carry_the_names_of_the_model(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    runs.train(recipe, tmp_path / "run")
    checkpoint = checkpoint_of(tmp_path / "run", 9)
    weights = load_file(tmp_path / "run/weights.safetensors")
    kept = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    assert weights.keys() == kept.keys()
    average = checkpoint["callbacks"]["Ema"]["average"]
    assert_same(weights, {name: average[name] for name in weights})
    assert any(not torch.equal(weights[name], kept[name]) for name in weights)


def test_run_without_average_writes_its_last_weights(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "ema: {decay: 0.9}", "ema: null")
    runs.train(recipe, tmp_path / "run")
    kept = checkpoint_of(tmp_path / "run", 9)["state_dict"]
    weights = load_file(tmp_path / "run/weights.safetensors")
    assert_same(weights, {name: kept[f"model.{name}"] for name in weights})


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    first = runs.train(recipe, tmp_path / "run")
    before = (tmp_path / "run/weights.safetensors").stat().st_mtime_ns
    again = runs.train(recipe, tmp_path / "run", resume=True)
    assert (again.step, again.weights, again.stopped_by) == (first.step, first.weights, None)
    assert (tmp_path / "run/weights.safetensors").stat().st_mtime_ns == before


def test_folder_of_another_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    runs.train(recipe_of(tmp_path), tmp_path / "run")
    other = recipe_of(tmp_path, overrides=("training.batch_size=2",))
    with pytest.raises(UserError, match=r"another recipe.*\n.*training.batch_size: 3 there, 2 here") as caught:
        runs.train(other, tmp_path / "run")
    assert "--run" in str(caught.value)


def test_a_run_that_never_began_stands_in_nobodys_way(tmp_path: Path) -> None:
    other = recipe_of(tmp_path, overrides=("training.batch_size=2",))
    write_lock(other, tmp_path / "run" / "recipe.lock.yaml")
    assert runs.train(recipe_of(tmp_path), tmp_path / "run").weights is not None


def test_stopped_run_goes_on_only_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path)
    with monkeypatch.context() as patched:
        stop_after(patched, 3, signal.SIGTERM)
        runs.train(recipe, tmp_path / "run")
    with pytest.raises(UserError, match=r"stopped at step 3 of 9\n.*--resume"):
        runs.train(recipe, tmp_path / "run")


def test_in_place_of_a_damaged_checkpoint_an_older_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path)
    with monkeypatch.context() as patched:
        stop_after(patched, 3, signal.SIGTERM)
        runs.train(recipe, tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    data = last.read_bytes()
    last.unlink()  # it shares its content with step-000003.ckpt
    last.write_bytes(data[: len(data) // 2])
    kept = last.with_name("step-000003.ckpt")
    good = kept.read_bytes()
    kept.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint cannot be read.*\n.*no other checkpoint"):
        runs.train(recipe, tmp_path / "run", resume=True)
    kept.write_bytes(good)
    told = StringIO()
    result = runs.train(recipe, tmp_path / "run", resume=True, console=Console(file=told, width=300))
    assert "last.ckpt: this checkpoint cannot be read" in told.getvalue()
    assert "going on from step 3 of 9" in told.getvalue()
    whole = runs.train(recipe, tmp_path / "whole")
    assert result.weights is not None
    assert whole.weights is not None
    one, other = load_file(result.weights), load_file(whole.weights)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_newest_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def there(run: str) -> list[str]:
        return sorted(path.name for path in (tmp_path / run / "checkpoints").iterdir())

    few = ("training.trainer.checkpoint_every_steps=2", "training.trainer.keep_checkpoints=2")
    recipe = recipe_of(tmp_path, overrides=few)
    runs.train(recipe, tmp_path / "run")
    assert there("run") == ["last.ckpt", "step-000008.ckpt", "step-000009.ckpt"]
    with monkeypatch.context() as patched:
        stop_after(patched, 7, signal.SIGTERM)
        runs.train(recipe, tmp_path / "stopped")
    assert there("stopped") == ["last.ckpt", "step-000006.ckpt", "step-000007.ckpt"]
    for name in ("last.ckpt", "step-000007.ckpt"):  # what cannot be read crowds nothing out that can
        (tmp_path / "stopped/checkpoints" / name).unlink()
        (tmp_path / "stopped/checkpoints" / name).write_bytes(b"torn")
    (tmp_path / "stopped/checkpoints/step-000099.ckpt").write_bytes(b"torn")
    fewer = recipe_of(tmp_path, overrides=(few[0], "training.trainer.keep_checkpoints=1"))
    result = runs.train(fewer, tmp_path / "stopped", resume=True)
    assert there("stopped") == ["last.ckpt", "step-000009.ckpt", "step-000099.ckpt"]
    assert result.weights is not None
    one, other = load_file(result.weights), load_file(tmp_path / "run/weights.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_nan_stops_with_step_clips_and_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path)
    real = runs.JointTraining.losses

    def losses(self: Any, batch: Any) -> Any:
        found = real(self, batch)
        return found.map(lambda loss: loss * torch.nan) if batch.step == 5 else found

    monkeypatch.setattr(runs.JointTraining, "losses", losses)
    with pytest.raises(NonFiniteError) as caught:
        runs.train(recipe, tmp_path / "run")
    message = str(caught.value)
    assert "the loss is not finite at step 6" in message
    assert message.count("kit-") == 3
    assert f"last good checkpoint is {tmp_path}/run/checkpoints/step-000004.ckpt" in message
    weights = checkpoint_of(tmp_path / "run", 4)["state_dict"].values()
    assert all(value.isfinite().all() for value in weights)
    assert '"ovikit_run_failed"' in (tmp_path / "run/events.jsonl").read_text()


def test_infinite_gradient_stops_before_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path)
    real = runs.JointTraining.losses

    def losses(self: Any, batch: Any) -> Any:
        found = real(self, batch)
        if batch.step == 1:
            next(self.model.parameters()).register_hook(lambda grad: grad * torch.inf)
        return found

    monkeypatch.setattr(runs.JointTraining, "losses", losses)
    with pytest.raises(NonFiniteError, match=r"the gradient is not finite at step 2.*\n.*no checkpoint had been"):
        runs.train(recipe, tmp_path / "run")


def test_clips_without_sound_are_refused_by_name(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "data: {type: kit-clips}", "data: {type: kit-clips, mute: [2, 5]}")
    with pytest.raises(UserError, match="2 of 7 clips have no audio, which is to be trained: kit-2, kit-5"):
        runs.train(recipe, tmp_path / "run")


def test_processes_that_cannot_share_a_step_equally_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 micro-batches cannot be shared equally by 2 processes"):
        runs.train(recipe_of(tmp_path, overrides=("training.trainer.devices=2",)), tmp_path / "run")


@pytest.mark.parametrize("change", ["model.quantization=int8", "model.precision.dtype=bfloat16"])
def test_weights_in_a_format_for_sampling_are_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(UserError, match="cannot be trained"):
        runs.train(recipe_of(tmp_path, overrides=(change,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


ONE_TOWER = """\
  fusion: {type: none}
"""


@pytest.mark.parametrize("stage", ["video", "audio"])
def test_model_of_one_tower_trains(tmp_path: Path, stage: str) -> None:
    absent = "audio" if stage == "video" else "video"
    overrides = (f"model.{absent}=null", f"training.stage={stage}")
    recipe = recipe_of(tmp_path, "  fusion: {type: kit-fusion}\n", ONE_TOWER, overrides)
    runs.train(recipe, tmp_path / "run")
    weights = load_file(tmp_path / "run/weights.safetensors")
    assert not [name for name in weights if absent in name]
    assert f"loss_{stage}" in rows_of(tmp_path / "run")[0]
    assert f"loss_{absent}" not in rows_of(tmp_path / "run")[0]


def test_stage_leaves_the_other_tower_and_the_fusion_as_they_were(tmp_path: Path) -> None:
    from ovikit.recipe import build

    recipe = recipe_of(tmp_path, overrides=("training.stage=audio",))
    before = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe)).state_dict()
    runs.train(recipe, tmp_path / "run")
    after = load_file(tmp_path / "run/weights.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.startswith("towers.audio") or ".blocks.audio." in name for name in changed)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    from ovikit.recipe import build

    recipe = recipe_of(tmp_path, "  ema:", '  freeze: ["*.ffn.*", "towers.video.*"]\n  ema:')
    before = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe)).state_dict()
    runs.train(recipe, tmp_path / "run")
    after = load_file(tmp_path / "run/weights.safetensors")
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {name for name in after if ".ffn." in name or name.startswith("towers.video.")}


def test_latents_are_encoded_once(tmp_path: Path) -> None:
    from training_kit import KitClips

    KitClips.reads.clear()
    recipe = recipe_of(tmp_path)
    runs.train(recipe, tmp_path / "run")
    assert KitClips.reads == list(range(7))
    for path in (tmp_path / "run/weights.safetensors", *(tmp_path / "run/checkpoints").iterdir()):
        path.unlink()
    runs.train(recipe, tmp_path / "run")
    assert len(KitClips.reads) == 7


def test_checkpoint_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path)
    seen: list[list[str]] = []

    def full_disk(self: Checkpoints, trainer: Any) -> Path:
        real = trainer.save_checkpoint

        def save(path: Path) -> None:
            real(path)
            seen.append(sorted(one.name for one in self.folder.iterdir() if one.name.startswith("step")))
            raise OSError("no space left on device")

        trainer.save_checkpoint = save
        return saved(self, trainer)

    saved = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", full_disk)
    with pytest.raises(UserError, match=r"step-000004\.ckpt: it cannot be written: no space left.*\n.*no checkpoint"):
        runs.train(recipe, tmp_path / "run")
    assert seen == [[]]
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train_and_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    recipe = recipe_of(tmp_path, overrides=(f"training.trainer.precision={precision}",))
    runs.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, 5, signal.SIGTERM)
        runs.train(recipe, tmp_path / "parts")
    runs.train(recipe, tmp_path / "parts", resume=True)
    weights = load_file(tmp_path / "parts/weights.safetensors")
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), weights)
    kept = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {value.dtype for value in weights.values()} == {kept}
    average = checkpoint_of(tmp_path / "parts", 9)["callbacks"]["Ema"]["average"]
    assert {value.dtype for value in average.values()} == {torch.promote_types(kept, torch.float32)}


def test_a_step_takes_the_mean_gradient_of_its_micro_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm in the log is that of the mean of gradients computed one by one, from the very batches of the run."""
    options = ("training.micro_batches=3", "training.trainer.max_steps=1", "training.trainer.log_every_steps=1")
    recipe = recipe_of(tmp_path, overrides=(*options, "training.trainer.precision=64-true"))
    real, gradients, places = runs.JointTraining.training_step, [], []

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        alone = real(self, batch, batch_idx)
        trained = [p for p in self.parameters() if p.requires_grad]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(alone, trained, materialize_grads=True)]))
        places.append((batch.step, batch.part, batch.last))
        self.watch.take_means()
        return real(self, batch, batch_idx)

    monkeypatch.setattr(runs.JointTraining, "training_step", training_step)
    runs.train(recipe, tmp_path / "run")
    assert places == [(0, 0, False), (0, 1, False), (0, 2, True)]
    assert not torch.equal(gradients[0], gradients[1])
    norm = torch.stack(gradients).mean(0).norm().item()
    (row,) = rows_of(tmp_path / "run")
    assert float(row["grad_norm"]) == pytest.approx(norm, rel=1e-9)
    assert float(row["epoch"]) == pytest.approx(9 / 7, abs=1e-4)


def test_processes_share_the_micro_batches_of_a_step() -> None:
    whole = Share(6)
    parts = {rank: Share(6, rank, 3) for rank in range(3)}
    for step in range(4):
        own = [share.place(step * share.own + mine) for share in parts.values() for mine in range(share.own)]
        assert sorted(own) == [whole.place(step * 6 + part) for part in range(6)]
    with pytest.raises(UserError, match=r"6 micro-batches cannot be shared equally by 4 processes.*\n.*=8"):
        Share(6, 0, 4)


def test_processes_that_share_tokens_have_the_same_micro_batches(tmp_path: Path) -> None:
    def world(rank: int, processes: int, sequence: int) -> World:
        training = recipe_of(tmp_path, overrides=(f"training.trainer.sequence={sequence}",)).training
        assert training is not None
        told = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        return find_world(training.trainer, {name: str(value) for name, value in told.items()})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TorchElasticEnvironment, "detect", staticmethod(lambda: True))
        assert [world(rank, 4, 2).share(6) for rank in range(4)] == [Share(6, g, 2) for g in (0, 0, 1, 1)]
        with pytest.raises(UserError, match=r"sequence: there are 6 processes, but 4 are to share(.|\n)*sequence=2"):
            world(0, 6, 4)
    with pytest.raises(UserError, match=r"there is 1 process, but 2 are to share"):
        runs.train(recipe_of(tmp_path, overrides=("training.trainer.sequence=2",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_of_micro_batches_is_resumed_at_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    recipe = recipe_of(tmp_path, overrides=("training.micro_batches=3", f"training.trainer.workers={workers}"))
    runs.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, 5, signal.SIGTERM)
        stopped = runs.train(recipe, tmp_path / "parts")
    assert (stopped.step, stopped.stopped_by) == (5, signal.SIGTERM)
    runs.train(recipe, tmp_path / "parts", resume=True)
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), load_file(tmp_path / "parts/weights.safetensors"))


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    for override, match in (
        ("training.freeze=['*.nothing']", "matches no parameter"),
        ("model.precision.dtype=bfloat16", "cannot be trained"),
    ):
        with pytest.raises(UserError, match=match):
            runs.train(recipe_of(tmp_path, overrides=(override,)), tmp_path / "run")
        assert not (tmp_path / "run").exists()
