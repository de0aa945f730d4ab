"""A given first frame: its own encoding without noise, told as such, and not learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from training_kit import kit_installed, write_recipe

from ovikit.data.latents import LatentClips, prepare_latents, read_cache, write_cache
from ovikit.data.sampler import EpochSampler
from ovikit.errors import UserError
from ovikit.numerics import path
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.training.batches import Batch, BatchStream
from ovikit.training.draws import Choices, draw_first
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.run import train
from ovikit.training.watch import LossWatch
from ovikit.types import AV, Text, TokenGrid


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with kit_installed(monkeypatch):
        yield


class Kit:
    """The kit's model and clips."""

    def __init__(self, folder: Path, chance: float) -> None:
        recipe = load_recipe(write_recipe(folder), ())
        self.codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
        self.model = build.build_model(recipe, self.codecs, conditioner)
        self.source = build.build_dataset(recipe)
        self.clips: LatentClips = prepare_latents(
            self.source, self.codecs, conditioner, build.clip_spec(recipe), first_frames=True
        )
        optimizer = AdamWCosine(
            steps=9, learning_rate=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, warmup_steps=0,
            final_fraction=1.0,
        )  # fmt: skip
        self.grids = self.codecs.map(lambda codec: codec.grid())
        self.module = JointTraining(
            self.model, build.build_objective(recipe), [self.grids], optimizer, LossWatch(self.clips.names),
            seed=5, choices=Choices(first_frame=chance), gradient_clip=None,
        )  # fmt: skip

    def batch(self, step: int) -> Batch:
        return BatchStream(self.clips, EpochSampler((len(self.clips),), 3, 5))[step]


def test_first_frames_are_encoded_alone_and_kept(tmp_path: Path) -> None:
    kit = Kit(tmp_path, 0.0)
    assert kit.clips.first is not None
    for i, first in enumerate(kit.clips.first):
        alone = kit.codecs["video"].encode(kit.source[i].signal("video")[None, :1])[0]
        assert torch.equal(first, alone.float())
    write_cache(tmp_path / "kept.safetensors", kit.clips, "mark")
    back = read_cache(tmp_path / "kept.safetensors", "mark", kit.clips.form).first
    assert back is not None
    assert torch.equal(back, kit.clips.first)


def test_a_mixed_batch_is_what_its_clips_are_by_themselves(tmp_path: Path) -> None:
    kit = Kit(tmp_path, 0.0)
    batch = kit.batch(0)
    sigma = batch.latents.map(lambda x: torch.tensor([0.2, 0.5, 0.9]))
    context = kit.model.embed_text(batch.text, cache=False)
    common = batch.latents, sigma, context, kit.grids
    clean = torch.tensor([True, False, True])
    with torch.no_grad():
        mixed = kit.model(*common, clean_steps=AV(video=1), clean=AV(video=clean))
        given, plain = kit.model(*common, clean_steps=AV(video=1)), kit.model(*common)
    assert not torch.allclose(given["video"], plain["video"])
    for modality, value in mixed.items():
        wanted = torch.where(clean.view(-1, *[1] * (value.ndim - 1)), given[modality], plain[modality])
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)


def test_a_given_first_frame_has_no_noise_and_no_loss(tmp_path: Path) -> None:
    kit = Kit(tmp_path, 1.0)
    batch = kit.batch(1)
    seen: list[AV[Tensor]] = []

    def predict(
        noisy: AV[Tensor], sigma: AV[Tensor], text: AV[Text], held: Tensor | None, grids: AV[TokenGrid]
    ) -> AV[Tensor]:
        """The true velocity, but for nonsense in the first step of the video."""
        assert held is not None
        assert held.all()
        seen.append(noisy)
        found = noisy.zip(sigma, lambda x, level: x * 0)
        for modality, x in batch.latents.items():
            level = sigma[modality].view(-1, *[1] * (x.ndim - 1))
            noise = (noisy[modality] - (1 - level) * x) / level
            found[modality].copy_(path.velocity(x, noise))
        found["video"][:, :, 0] = 100.0
        return found

    kit.module._predict = predict  # type: ignore[method-assign]
    losses = kit.module.losses(batch)
    assert batch.first is not None
    assert torch.equal(seen[0]["video"][:, :, :1], batch.first)
    assert all(float(loss) < 1e-6 for loss in losses.values())


def test_where_none_is_given_the_losses_are_the_plain_ones(tmp_path: Path) -> None:
    plain, mixed = Kit(tmp_path, 0.0), Kit(tmp_path, 0.4)
    same = []
    for step in range(8):
        held = draw_first(0.4, 3, 5, step, 0)
        one, other = plain.module.losses(plain.batch(step)), mixed.module.losses(mixed.batch(step))
        same.append(torch.equal(one["video"], other["video"]))
        assert same[-1] != bool(held.any())
    assert 0 < sum(same) < 8
    assert abs(float(draw_first(0.4, 20000, 1, 0, 0).double().mean()) - 0.4) < 0.02


def test_a_run_with_first_frames_trains_and_sound_alone_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    found = [
        train(load_recipe(path, (f"training.first_frame={chance}",)), tmp_path / name).weights
        for name, chance in (("some", 0.5), ("none", 0.0))
    ]
    one, other = (load_file(weights) for weights in found if weights is not None)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UserError, match="no first frame"):
        load_recipe(path, ("training.stage=audio", "training.first_frame=0.5"))
