"""What a recipe chooses of a step's draws: levels, noise, given modalities; what they do to the losses, by hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from test_training_run import assert_same, checkpoint_of, rows_of, stop_after
from torch import Tensor
from training_kit import RECIPE, LetterText, kit_installed, write_recipe

from ovikit.data.latents import LatentClips, encode
from ovikit.data.sampler import EpochSampler
from ovikit.data.seeds import generator_for
from ovikit.errors import UserError
from ovikit.numerics import path
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Recipe
from ovikit.recipe.training import Optimizer
from ovikit.training import run as runs
from ovikit.training.batches import Batch, BatchStream, drop_text
from ovikit.training.display import choices_table, freeze_table, training_table
from ovikit.training.draws import Choices, draw_given, draw_noise, learned_mask, mean_learned
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.parameters import count_parameters, frozen_by, select_trained
from ovikit.training.watch import LossWatch
from ovikit.types import AV, Context, Text, TokenGrid


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path))


class Trained:
    """A module of the kit's recipe, and what its network was called with last."""

    def __init__(self, recipe: Recipe, choices: Choices) -> None:
        codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
        model = build.build_model(recipe, codecs, conditioner).double()
        self.clips: LatentClips = encode(build.build_dataset(recipe), codecs, conditioner, build.clip_spec(recipe))
        self.clips = replace(self.clips, latents=self.clips.latents.map(Tensor.double))
        optimizer = AdamWCosine(
            steps=9, learning_rate=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, warmup_steps=0,
            final_fraction=1.0,
        )  # fmt: skip
        self.module = JointTraining(
            model, build.build_objective(recipe), [codecs.map(lambda codec: codec.grid())], optimizer,
            LossWatch(self.clips.names), seed=5, choices=choices, gradient_clip=None,
        )  # fmt: skip
        self.latents: AV[Tensor] = AV()
        self.sigma: AV[Tensor] = AV()
        self.velocity: AV[Tensor] = AV()
        forward = model.forward

        def watched(latents: AV[Tensor], sigma: AV[Tensor], context: AV[Context], grids: AV[TokenGrid]) -> AV[Tensor]:
            self.latents, self.sigma = latents, sigma
            self.velocity = forward(latents, sigma, context, grids)
            return self.velocity

        model.forward = watched  # type: ignore[method-assign]  # the real network, looked at

    def batch(self, step: int) -> Batch:
        return BatchStream(self.clips, EpochSampler((len(self.clips),), 3, 5))[step]

    def losses(self, step: int) -> AV[Tensor]:
        return self.module.losses(self.batch(step))


def test_with_nothing_chosen_the_losses_are_those_that_they_always_were(recipe: Recipe) -> None:
    """The step as it was before there was anything to choose, written out."""
    trained = Trained(recipe, Choices(text_dropout=0.3))
    module = trained.module
    for step in range(4):
        batch = trained.batch(step)
        small = generator_for(5, "levels", step, 0)
        sigma = module.objective.sample_sigma(small, 3)
        dropped = torch.rand(3, generator=small, dtype=torch.float32) < 0.3
        noise = AV.of(
            {
                m: torch.randn(x.shape, generator=generator_for(5, f"noise/{m}", step, 0), dtype=x.dtype)
                for m, x in batch.latents.items()
            }
        )
        noisy = AV.of({m: path.mix(x, noise[m], sigma[m]) for m, x in batch.latents.items()})
        text = drop_text(batch.text["video"], batch.empty, dropped).to(torch.device("cpu"), torch.float64)
        context = module.model.embed_text(AV(text, text), cache=False)
        velocity = module.model(noisy, sigma, context, module.grids[0])
        wanted = velocity.zip(batch.latents.zip(noise, path.velocity), lambda v, u: (v - u).square().flatten(1).mean(1))
        found = trained.losses(step)
        for modality, loss in wanted.items():
            assert torch.equal(found[modality], loss.mean())


def test_what_is_given_is_the_data_and_told_so(recipe: Recipe) -> None:
    trained, plain = Trained(recipe, Choices(given=AV(0.4, 0.4))), Trained(recipe, Choices())
    seen = set()
    for step in range(12):
        trained.losses(step)
        plain.losses(step)
        given = draw_given(AV(0.4, 0.4), 3, 5, step, 0)
        for modality, held in given.items():
            data = trained.batch(step).latents[modality]
            assert torch.equal(trained.latents[modality][held], data[held])
            assert torch.equal(trained.sigma[modality][held], torch.zeros(int(held.sum())))
            # the others see what they see without any of this
            assert torch.equal(trained.latents[modality][~held], plain.latents[modality][~held])
            assert torch.equal(trained.sigma[modality][~held], plain.sigma[modality][~held])
            seen |= {(modality, bool(one)) for one in held}
    assert len(seen) == 4


def test_the_loss_is_the_mean_over_the_clips_that_are_learned(recipe: Recipe) -> None:
    trained = Trained(recipe, Choices(given=AV(0.4, 0.4)))
    counts = set()
    for step in range(12):
        found = trained.losses(step)
        given = draw_given(AV(0.4, 0.4), 3, 5, step, 0)
        for modality, held in given.items():
            data = trained.batch(step).latents[modality]
            noise = torch.randn(data.shape, generator=generator_for(5, f"noise/{modality}", step, 0), dtype=data.dtype)
            errors = (trained.velocity[modality] - (noise - data)).square()[~held]
            assert found[modality].item() == pytest.approx(errors.mean().item() if len(errors) else 0.0, rel=1e-12)
            counts.add(len(errors))
    assert {0, 1, 2, 3} <= counts


def test_a_batch_that_learns_nothing_of_a_modality_has_no_gradient_there(recipe: Recipe) -> None:
    trained = Trained(recipe, Choices(given=AV(1.0, 0.0)))
    losses = trained.losses(0)
    assert losses["video"].item() == 0
    (losses["video"] + losses["audio"]).backward()
    towers = trained.module.model.towers
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in towers["video"].out.parameters() if p.grad is not None)
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.module.model.parameters())
    # and yet the video tower learns, from what the audio hears of it
    assert towers["video"].into.weight.grad.abs().sum() > 0


def test_how_often_a_modality_is_given(recipe: Recipe) -> None:
    p, q, size, steps = 0.2, 0.3, 16, 2000
    drawn = [draw_given(AV(p, q), size, 7, step, 0) for step in range(steps)]
    video, audio = (torch.stack([one[m] for one in drawn]) for m in ("video", "audio"))
    assert not (video & audio).any()
    n = size * steps
    for found, wanted in ((video, p), (audio, q)):
        assert abs(found.double().mean().item() - wanted) < 5 * (wanted * (1 - wanted) / n) ** 0.5
    # each clip of each step by itself: the number of a batch varies as a binomial does
    variance = video.double().sum(1).var().item()
    assert variance == pytest.approx(size * p * (1 - p), rel=0.15)
    assert not draw_given(AV(0.0, 0.0), size, 7, 0)["video"].any()
    everywhere = draw_given(AV(0.25, 0.75), size, 7, 0)
    assert (everywhere["video"] ^ everywhere["audio"]).all()


def test_shared_noise_begins_with_the_same_numbers() -> None:
    shapes, like = AV(torch.Size((3, 2, 2, 3, 3)), torch.Size((3, 4, 5))), torch.empty(0, dtype=torch.float64)
    noise = draw_noise(shapes, like, True, 1, 2, 0)
    assert noise.map(lambda x: x.shape) == shapes
    assert torch.equal(noise["video"].flatten(1)[:, :20], noise["audio"].flatten(1))
    assert noise["video"].flatten().unique().numel() == 3 * 36  # clips share nothing
    apart = draw_noise(shapes, like, False, 1, 2, 0)
    assert not torch.isin(apart["audio"], apart["video"]).any()
    assert not torch.isin(draw_noise(shapes, like, True, 1, 3, 0)["video"], noise["video"]).any()


def test_shared_noise_is_standard_normal() -> None:
    noise = draw_noise(AV(torch.Size((4, 5000)), torch.Size((4, 3000))), torch.empty(0), True, 0)
    for value in noise.values():
        assert abs(value.mean().item()) < 0.04
        assert value.var().item() == pytest.approx(1, abs=0.05)


def test_shared_noise_is_what_the_network_is_trained_on(recipe: Recipe) -> None:
    trained = Trained(recipe, Choices(same_noise=True))
    trained.losses(2)
    data, levels = trained.batch(2).latents, trained.sigma
    noise = AV.of({m: (trained.latents[m] - (1 - path.expand(levels[m], x)) * x) for m, x in data.items()})
    noise = noise.zip(levels, lambda x, level: (x / path.expand(level, x)).flatten(1))
    size = min(x.shape[1] for x in noise.values())
    assert torch.allclose(noise["video"][:, :size], noise["audio"][:, :size], atol=1e-5)


def test_means_and_masks_by_hand() -> None:
    given = AV(torch.tensor([True, False, False]), torch.tensor([True, True, True]))
    losses = AV(torch.tensor([torch.nan, 1.0, 3.0]), torch.tensor([9.0, 9.0, 9.0]))
    found = mean_learned(losses, given)
    assert (found["video"].item(), found["audio"].item()) == (2.0, 0.0)
    mask = learned_mask(given["video"], torch.zeros(3, 2, 4, 1, 1))
    assert mask.shape == (3, 1, 1, 1, 1)
    assert mask.flatten().tolist() == [False, True, True]


def test_the_log_has_means_over_the_steps_that_learned(tmp_path: Path) -> None:
    watch = LossWatch(["a"])
    for video, absent in ((4.0, ()), (0.0, ("loss_video",)), (2.0, ())):
        watch.record(1, {"loss": torch.tensor(1.0), "loss_video": torch.tensor(video)}, [0], absent)
    again = LossWatch(["a"])
    again.load_state_dict(watch.state_dict())
    assert again.take_means() == watch.take_means() == {"loss": 1.0, "loss_video": 3.0}
    recipe = load_recipe(write_recipe(tmp_path), ["training.modality_dropout.audio_from_video=1.0"])
    runs.train(recipe, tmp_path / "run")
    assert {row["loss_video"] for row in rows_of(tmp_path / "run")} == {""}
    assert all(float(row["loss_audio"]) > 0 for row in rows_of(tmp_path / "run"))


@pytest.mark.parametrize("step", [2, 7])
def test_a_resumed_run_with_dropout_and_shared_noise_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    text = "  modality_dropout: {audio_from_video: 0.3, video_from_audio: 0.4}\n  same_noise: true\n  ema:"
    recipe = load_recipe(write_recipe(tmp_path, "  ema:", text))
    runs.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, step, signal.SIGTERM)
        runs.train(recipe, tmp_path / "parts")
    runs.train(recipe, tmp_path / "parts", resume=True)
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    one, other = checkpoint_of(tmp_path / "whole", 9), checkpoint_of(tmp_path / "parts", 9)
    for key in ("state_dict", "optimizer_states", "callbacks", "ovikit"):
        assert_same(one[key], other[key], key)
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), load_file(tmp_path / "parts/weights.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.stage=audio", "training.same_noise=true"],
         "training.same_noise: needs both modalities, but training.stage is 'audio'"),
        (["training.stage=video", "training.modality_dropout.video_from_audio=0.1"],
         "training.modality_dropout: needs both modalities, but training.stage is 'video'"),
        (["training.modality_dropout.audio_from_video=0.6", "training.modality_dropout.video_from_audio=0.5"],
         "training.modality_dropout: audio_from_video and video_from_audio add up to 1.1, which is more than 1"),
        (["training.modality_dropout.audio_from_video=-0.6"],
         "training.modality_dropout.audio_from_video: should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_choices_that_do_not_fit_are_refused_with_their_place(tmp_path: Path, changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        load_recipe(write_recipe(tmp_path), changes)


def test_a_stage_of_one_modality_takes_the_choices_that_change_nothing(tmp_path: Path) -> None:
    changes = ["training.stage=audio", "training.same_noise=false", "training.modality_dropout.audio_from_video=0.0"]
    assert load_recipe(write_recipe(tmp_path), changes).training is not None


PARTED = {
    "conditioner: {type: kit-letters}": "conditioner: {type: kit-letters, separate: true}",
    "data: {type: kit-clips}": "data: {type: kit-clips, prompts: ['ab|c', 'd|c', 'ab|e', 'ab']}",
}


def parted(folder: Path, *changes: str) -> Recipe:
    text = RECIPE
    for old, new in PARTED.items():
        text = text.replace(old, new)
    return load_recipe(write_recipe(folder, text=text), changes)


def test_a_batch_has_a_text_for_each_tower_and_loses_both_at_once(tmp_path: Path) -> None:
    trained = Trained(parted(tmp_path), Choices(text_dropout=0.5))
    batch = trained.batch(0)
    letters = LetterText()
    for row, clip in enumerate(batch.clips):
        prompt = ("ab|c", "d|c", "ab|e", "ab")[clip % 4]
        for modality, text in zip(("video", "audio"), prompt.partition("|")[::2], strict=True):
            read = batch.text[modality]  # type: ignore[index]
            assert torch.equal(read.tokens[row, : int(read.lengths[row])], letters.encode([text]).tokens[0])
    seen: list[AV[Text]] = []
    embed = trained.module.model.embed_text

    def watched(text: AV[Text], cache: bool) -> AV[Context]:
        seen.append(text)
        return embed(text, cache)

    trained.module.model.embed_text = watched  # type: ignore[method-assign]  # the real one, looked at
    lost = set()
    for step in range(8):
        trained.losses(step)
        whole = trained.batch(step)
        for row in range(3):
            gone = {
                bool(text.tokens[row].abs().sum() == 0)
                for m, text in seen[-1].items()
                if whole.text[m].tokens[row].abs().sum() > 0
            }
            assert len(gone) == 1
            lost |= gone
    assert lost == {True, False}


def test_combined_prompts_are_one_text_from_the_batch_to_the_towers(recipe: Recipe) -> None:
    batch = Trained(recipe, Choices()).batch(0)
    assert batch.text.video is batch.text.audio
    moved = batch.to(torch.device("cpu"))
    assert moved.text.video is moved.text.audio


def test_a_run_with_a_text_for_each_tower_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parted(tmp_path)
    runs.train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(patched, 5, signal.SIGTERM)
        runs.train(recipe, tmp_path / "parts")
    runs.train(recipe, tmp_path / "parts", resume=True)  # from the cached latents
    assert_same(load_file(tmp_path / "whole/weights.safetensors"), load_file(tmp_path / "parts/weights.safetensors"))


def shown(*tables: Table) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    return console.export_text()


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if "│" in line and line.split("│")[1].strip() == name)


def test_each_pattern_is_told_with_what_it_freezes(recipe: Recipe) -> None:
    model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    patterns = ["*.ffn.*", "layers.*", "layers.1.*.ffn.*"]
    frozen = frozen_by(model, "joint", patterns)
    ffn = sum(size for name, size in sizes.items() if ".ffn." in name)
    layers = sum(size for name, size in sizes.items() if name.startswith("layers."))
    assert [(one.rule, one.matched, one.more) for one in frozen] == [
        ("*.ffn.*", ffn, ffn), ("layers.*", layers, layers - ffn), ("layers.1.*.ffn.*", ffn // 2, 0),
    ]  # fmt: skip
    text = shown(freeze_table(frozen))
    assert f" {ffn:,} " in row(text, "*.ffn.*")
    assert f"of {layers:,}; the rest was frozen above" in row(text, "layers.*")
    assert f"nothing more: the {ffn // 2:,} that it names were frozen above" in row(text, "layers.1.*.ffn.*")
    select_trained(model, "joint", patterns)
    assert sum(one.more for one in frozen) == sum(one.frozen for one in count_parameters(model).values())
    total = shown(
        training_table(model, build.build_objective(recipe), ("video", "audio"), 7, Optimizer(learning_rate=0.01))
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f" {trained:,} " in row(total, "all")
    assert f" {sum(sizes.values()) - trained:,} " in row(total, "all")


def test_the_stage_freezes_before_the_patterns(recipe: Recipe) -> None:
    model = build.build_model(recipe, build.build_codecs(recipe), build.build_conditioner(recipe))
    frozen = frozen_by(model, "audio", ["towers.video.*", "*.ffn.*"])
    select_trained(model, "audio", ["towers.video.*", "*.ffn.*"])
    assert [one.rule for one in frozen] == ["stage audio", "towers.video.*", "*.ffn.*"]
    assert frozen[1].more == 0
    assert 0 < frozen[2].more < frozen[2].matched
    assert sum(one.more for one in frozen) == sum(p.numel() for p in model.parameters() if not p.requires_grad)


def test_all_choices_are_in_the_table(tmp_path: Path) -> None:
    def told(*changes: str) -> str:
        recipe = load_recipe(write_recipe(tmp_path), changes)
        codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
        clips = encode(build.build_dataset(recipe), codecs, conditioner, build.clip_spec(recipe))
        return shown(choices_table(build.build_objective(recipe), build.training_of(recipe), clips))

    plain = told()
    assert "one for both modalities" in row(plain, "noise level")
    assert "one each, independent" in row(plain, "noise")
    assert "both are learned 100 %" in row(plain, "modalities")
    assert "left out 30 %" in row(plain, "prompt")
    chosen = told(
        "training.objective.shared_sigma=false", "training.same_noise=true", "training.text_dropout=0.0",
        "training.modality_dropout.audio_from_video=0.2", "training.modality_dropout.video_from_audio=0.05",
    )  # fmt: skip
    assert "one each, independent" in row(chosen, "noise level")
    assert "begins with the same numbers in both" in row(chosen, "noise")
    assert "both are learned 75 %, audio from video 20 %, video from audio 5 %" in row(chosen, "modalities")
    assert "always there" in row(chosen, "prompt")
    assert "modalities" not in told("training.stage=audio")
    assert "the whole prompt" in row(plain, "text")


def test_clips_with_nothing_for_a_tower_are_counted_in_the_table(tmp_path: Path) -> None:
    recipe = parted(tmp_path)
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    clips = encode(build.build_dataset(recipe), codecs, conditioner, build.clip_spec(recipe))
    text = shown(choices_table(build.build_objective(recipe), build.training_of(recipe), clips))
    wanted = "a text for each tower; 1 of 7 have none for audio, which reads the empty prompt"
    assert wanted in row(text, "text")
