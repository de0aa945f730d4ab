"""AS: MUSIQ, MANIQA and the aesthetic predictor, against records of other packages' and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from binding_kit import wave
from PIL import Image
from pydantic import ValidationError
from quality_kit import SIDE, film, small_maniqa, small_musiq, transformers, use_small_networks, waving, write_weights
from torch import nn

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.types import Clip
from ovikit_versebench.seeing.maniqa import Maniqa, ManiqaSize, _apart, _relative
from ovikit_versebench.seeing.musiq import Musiq, hashed
from ovikit_versebench.seeing.options import PictureQualityConfig
from ovikit_versebench.seeing.quality import SQUARES, PictureQuality

ITEM = PromptItem("0", "a picture")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_networks(monkeypatch)
    return write_weights(tmp_path / "weights")


def judge(weights: Path, **options: object) -> PictureQuality:
    return PictureQuality(Assets(weights), PictureQualityConfig(**options))


def scores(of: PictureQuality, clip: Clip) -> dict[str, float | Unscored]:
    return of.score(of.features(clip), {}, ITEM)


# The networks.


def test_musiq_gives_what_pyiqa_gives() -> None:
    """Recorded from pyiqa 0.1.16 with hidden_size 16, mlp_dim 24, 2 heads and layers, longer sides 48 and 80."""
    network = small_musiq().eval()
    network.load_state_dict(waving(network))
    with torch.no_grad():
        found = network((wave((2, 3, 70, 100), 1.0) + 1) / 2)
    torch.testing.assert_close(found, torch.tensor([1.0792216062545776, 1.0742896795272827]), atol=5e-6, rtol=0)


def test_maniqa_gives_what_pyiqa_gives() -> None:
    """Recorded in float64 from pyiqa 0.1.16 with embed_dim and dim_mlp 16, 2 heads, img_size 64 and scale 0.8, over a
    backbone of this size."""
    network = small_maniqa().double().eval()
    network.load_state_dict(waving(network) | {"fc_score.3.bias": torch.tensor([0.5])})
    with torch.no_grad():
        found = network((wave((2, 3, 64, 64), 1.0) + 1).double() / 2)
    expected = torch.tensor([2.1011795080513167, 2.159508028967881], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_the_backbone_is_transformers_vision_transformer() -> None:
    backbone = small_maniqa().vit
    state = waving(backbone)
    backbone.load_state_dict(state)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=10, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=8,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj"}
    told = {
        "embeddings.cls_token": state["cls_token"], "embeddings.position_embeddings": state["pos_embed"],
    }  # fmt: skip
    for end in ("weight", "bias"):
        told[f"embeddings.patch_embeddings.projection.{end}"] = state[f"patch_embed.proj.{end}"]
        told[f"layernorm.{end}"] = state[f"norm.{end}"]
        for i in range(10):
            for part in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
                told[f"layers.{i}.{names.get(part, part)}.{end}"] = state[f"blocks.{i}.{part}.{end}"]
            parts = state[f"blocks.{i}.attn.qkv.{end}"].chunk(3)
            for name, value in zip("qkv", parts, strict=True):
                told[f"layers.{i}.attention.{name}_proj.{end}"] = value
    theirs.load_state_dict(told)
    pictures = wave((2, 3, 64, 64), 2.0)
    with torch.no_grad():
        hidden = theirs(pixel_values=pictures, output_hidden_states=True).hidden_states
        expected = torch.cat([hidden[i + 1][:, 1:] for i in (6, 7, 8, 9)], dim=-1)
        torch.testing.assert_close(backbone(pictures), expected, atol=1e-5, rtol=1e-5)


def test_the_published_sizes() -> None:
    """248 and 316 tensors with the names and shapes of pyiqa's. The published file of MANIQA has 543,335,435 bytes."""
    with torch.device("meta"):
        musiq, maniqa = Musiq().state_dict(), Maniqa().state_dict()
    assert (len(musiq), sum(one.numel() for one in musiq.values())) == (248, 27_125_825)
    held = sum(one.numel() * one.element_size() for one in maniqa.values())
    assert (len(maniqa), held) == (316, 543_207_208)
    assert 0 < 543_335_435 - held < 500 * len(maniqa)


def test_places_of_patches_are_shared_out_evenly() -> None:
    assert hashed(1, 20, 10).tolist() == [i // 2 for i in range(20)]
    assert hashed(3, 1, 10).tolist() == [0, 30, 60]
    assert hashed(10, 10, 10).tolist() == list(range(100))


def test_windows_know_how_patches_lie_and_which_are_strangers() -> None:
    index = _relative(2)
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    apart = _apart(4, 2, 1)
    assert apart.shape == (4, 4, 4)
    assert not apart[0].any()
    assert apart[1].tolist() == [[0, -100, 0, -100], [-100, 0, -100, 0]] * 2
    assert (apart[3] == -100 * (1 - torch.eye(4))).all()


@pytest.mark.parametrize("make", [small_musiq, small_maniqa])
def test_a_mark_does_not_depend_on_the_other_pictures(make) -> None:
    network = make().double().eval()
    network.load_state_dict(waving(network))
    pictures = (wave((3, 3, 64, 64), 3.0) + 1).double() / 2
    with torch.no_grad():
        torch.testing.assert_close(network(pictures)[1:], network(pictures[1:]), atol=1e-9, rtol=0)


def test_maniqa_weighs_patches() -> None:
    network = Maniqa(ManiqaSize(width=16, depth=10, heads=2, image_px=64, hidden=16, window_heads=2, classes=5)).eval()
    network.load_state_dict(waving(network))
    with torch.no_grad():
        network.fc_score[3].weight.zero_()
        network.fc_score[3].bias.fill_(0.25)
        found = network((wave((2, 3, 64, 64), 0.0) + 1) / 2)
    torch.testing.assert_close(found, torch.full((2,), 0.25))


# The evaluator.


def test_as_is_the_mean_of_the_three_marks_by_hand(weights: Path) -> None:
    clip = film(4)
    assert clip.video is not None
    frames = clip.video[::2]  # a frame a second, of two
    found = scores(judge(weights), clip)
    pixels = frames.permute(0, 3, 1, 2).float() / 255
    musiq, maniqa = small_musiq().eval(), small_maniqa().eval()
    musiq.load_state_dict(torch.load(weights / "musiq_koniq_ckpt-e95806b9.pth"))
    maniqa.load_state_dict(torch.load(weights / "ckpt_koniq10k.pt"))
    siglip = transformers.SiglipVisionModel.from_pretrained(weights / "siglip-so400m-patch14-384").eval()
    head = torch.load(weights / "aesthetic_predictor_v2_5.pth")
    small = [np.asarray(Image.fromarray(one.numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in frames]
    with torch.no_grad():
        seen = (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        x = nn.functional.normalize(siglip(pixel_values=seen).pooler_output, dim=-1)
        for i in range(0, 10, 2):
            x = x @ head[f"scoring_head.{i}.weight"].T + head[f"scoring_head.{i}.bias"]
        corners = [(top, left) for top in (0, 6) for left in (0, 26)]
        squares = [maniqa(pixels[:, :, top : top + 64, left : left + 64]) for top, left in corners]
        expected = {
            "aesthetic_v25": float(x.mean()),
            "musiq": float(musiq(pixels).mean()),
            "maniqa": float(torch.stack(squares).mean()),
        }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-4)
    mean = (expected["aesthetic_v25"] / 10 + expected["musiq"] / 100 + expected["maniqa"]) / 3
    assert found["as"] == pytest.approx(mean, abs=1e-4)


def test_official_looks_at_every_frame_and_draws_squares_by_a_seed(weights: Path) -> None:
    clip, of = film(3), judge(weights, rules="official", marks=("maniqa",))
    places = of._places(3, 70, 90, 64)
    assert [len(one) for one in places] == [SQUARES] * 3
    assert all(0 <= top < 6 and 0 <= left < 26 for one in places for top, left in one)
    assert places[0] != places[1]
    assert of.features(clip) == judge(weights, rules="official", marks=("maniqa",)).features(clip)
    # The last frame counts, which a frame a second of these leaves out.
    assert clip.video is not None
    other = Clip("film", "", clip.video.clone(), None, clip.frame_rate_hz, 0)
    other.video[1] = 0
    assert of.features(other) != of.features(clip)
    fixed = judge(weights, marks=("maniqa",))
    assert fixed.features(other) == fixed.features(clip)


@pytest.mark.parametrize(("rules", "side", "scored"), [("fixed", 64, True), ("fixed", 63, False),
                                                       ("official", 65, True), ("official", 64, False)])  # fmt: skip
def test_pictures_smaller_than_maniqas_are_unscored(weights: Path, rules: str, side: int, scored: bool) -> None:
    found = scores(judge(weights, rules=rules), film(1, side, 90))
    assert all(isinstance(one, float) is scored for one in found.values())
    if not scored:
        assert "smaller than MANIQA's" in found["as"].reason
        assert isinstance(scores(judge(weights, rules=rules, marks=("musiq",)), film(1, side, 90))["musiq"], float)


def test_fewer_marks_need_fewer_files_and_give_no_as(weights: Path) -> None:
    for name in ("ckpt_koniq10k.pt", "aesthetic_predictor_v2_5.pth"):
        (weights / name).unlink()
    one = judge(weights, marks=("musiq",))
    assert [spec.name for spec in one.metrics] == ["musiq"]
    assert [need.missing for need in one.needs] == [None]
    assert isinstance(scores(one, film(1))["musiq"], float)
    whole = judge(weights)
    assert [need.name for need in whole.needs if need.missing] == ["aesthetic_predictor_v2_5.pth", "ckpt_koniq10k.pt"]
    with pytest.raises(ValidationError, match="asked once"):
        PictureQualityConfig(marks=("musiq", "musiq"))


@pytest.mark.parametrize(
    ("name", "mark"),
    [("musiq_koniq_ckpt-e95806b9.pth", "musiq"), ("ckpt_koniq10k.pt", "maniqa"),
     ("aesthetic_predictor_v2_5.pth", "aesthetic")],
)  # fmt: skip
def test_another_file_is_told(weights: Path, name: str, mark: str) -> None:
    state = torch.load(weights / name)
    last = sorted(state)[-1]
    torch.save({key: value for key, value in state.items() if key != last}, weights / name)
    with pytest.raises(UserError) as told:
        judge(weights, marks=(mark,)).features(film(1))
    assert name in told.value.where
    assert last in str(told.value)


def test_siglip_without_a_weight_is_told(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = weights / "siglip-so400m-patch14-384/model.safetensors"
    state = load_file(path)
    state.pop("vision_model.post_layernorm.bias")
    save_file(state, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"missing keys: .*post_layernorm\.bias"):
        judge(weights, marks=("aesthetic",)).features(film(1))
