"""ID: frames against the reference picture, with a small DINOv3 in the published layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from seeing_kit import MEAN, NAME, STD, item_of, pictures, transformers, write_weights

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.testing.clips import CLIP, beating_clip
from ovikit.types import Clip
from ovikit_versebench.seeing.identity import Identity


def film(frames: torch.Tensor, rate_hz: float = 5.0) -> Clip:
    return Clip("film", "", frames.contiguous(), None, rate_hz, 0)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights")


def judge(weights: Path, rules: str = "fixed", every_s: float = 0.2) -> Identity:
    return Identity(Assets(weights), NAME, rules, every_s)


def by_hand(weights: Path, frames: torch.Tensor, picture: torch.Tensor, index: int) -> float:
    """The mean cosine by transformers' own network, one picture at a time."""
    network = transformers.DINOv3ViTModel.from_pretrained(weights / NAME).eval()

    def token(one: torch.Tensor) -> torch.Tensor:
        small = np.asarray(Image.fromarray(one.numpy()).resize((64, 64), Image.Resampling.BILINEAR))
        pixels = (torch.from_numpy(small.copy()).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        with torch.no_grad():
            return network(pixel_values=pixels.permute(2, 0, 1)[None]).last_hidden_state[0, index]

    mine = token(picture)
    return float(torch.stack([torch.cosine_similarity(token(one), mine, dim=0) for one in frames]).mean())


@pytest.mark.parametrize(("rules", "index"), [("fixed", 0), ("official", -2)])
def test_it_is_the_mean_cosine_of_one_token(tmp_path, weights, rules, index):
    frames = pictures(10)
    item, found = item_of(tmp_path, frames[3]), judge(weights, rules)
    features = found.features(film(frames))
    assert found.score(features, features, item)["id"] == pytest.approx(
        by_hand(weights, frames, frames[3], index), abs=1e-5
    )


def test_the_reference_itself_is_one_and_others_are_less(tmp_path, weights):
    frames = pictures(2)
    item, found = item_of(tmp_path, frames[0]), judge(weights)
    same, other = (found.features(film(one.expand(5, -1, -1, -1))) for one in frames)
    assert found.score(same, same, item)["id"] == pytest.approx(1.0, abs=1e-5)
    assert found.score(other, other, item)["id"] < 0.999


def test_frames_are_taken_at_the_asked_interval(tmp_path, weights):
    frames = pictures(10)
    item, found = item_of(tmp_path, frames[0]), judge(weights, every_s=0.4)
    features = found.features(film(frames, rate_hz=10.0))
    wanted = by_hand(weights, frames[::4], frames[0], 0)
    assert found.score(features, features, item)["id"] == pytest.approx(wanted, abs=1e-5)


def test_items_without_a_picture_are_not_asked(weights):
    found = judge(weights)
    assert found.leaves_out(PromptItem("0", "x")) == "it has no reference picture"
    mute = found.features(replace(beating_clip(CLIP), video=None))
    assert found.score(mute, mute, PromptItem("0", "x", image=Path("p.png")))["id"] == Unscored("no picture")


def test_weights_that_do_not_fit_or_are_missing_are_told(tmp_path, weights):
    from safetensors.torch import load_file, save_file

    assert judge(tmp_path).needs[0].missing is not None
    file = weights / NAME / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "layer" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(UserError, match="these weights are not of this network; missing keys"):
        judge(weights).features(film(pictures(1)))
    file.write_bytes(b"")
    with pytest.raises(UserError, match="no network can be read"):
        judge(weights).features(film(pictures(1)))
    (weights / NAME / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"no preprocessor_config\.json"):
        judge(weights).features(film(pictures(1)))
