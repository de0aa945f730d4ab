"""The released model at full size, on the meta device: every tensor, its name and its shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel
from ovikit.types import AV, Text, TokenGrid
from ovikit_ovi.formats import RULES, ovi_format
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.plugin import WanTowerConfig
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

LAYOUTS = Path(__file__).parent / "golden" / "checkpoint_layouts.json"


@pytest.fixture(scope="module")
def full() -> JointModel:
    """Ovi with the default options of ``wan-tower``, without storage."""
    options = WanTowerConfig().model_dump()
    with torch.device("meta"):
        towers = AV(video=OviTower("video", 48, 4096, **options), audio=OviTower("audio", 20, 4096, **options))
        fusion = ovi_fusion(30, AV(3072, 3072), AV(24, 24), sdpa)
        return JointModel(AV(towers.video, towers.audio), fusion, IndexPositions(0.19676), sdpa)


@pytest.fixture(scope="module")
def official() -> dict[str, tuple[int, ...]]:
    shapes = json.loads(LAYOUTS.read_text())["Ovi/model.safetensors"]
    return {name: tuple(shape) for name, shape in shapes.items()}


def test_parameter_count(full: JointModel) -> None:
    assert sum(parameter.numel() for parameter in full.parameters()) == 11_660_753_108
    assert sum(p.numel() for n, p in full.named_parameters() if ".fusion." in n) == pytest.approx(1.13e9, rel=0.01)


def test_every_official_tensor_has_a_place_and_the_reverse(full: JointModel, official: dict) -> None:
    keymap = ovi_format().keymap
    ours = {name: tuple(tensor.shape) for name, tensor in full.state_dict().items()}
    assert len(official) == 2073
    assert {keymap.ours(name): shape for name, shape in official.items()} == ours
    assert {keymap.official(name): shape for name, shape in ours.items()} == official


def test_nine_rules_and_each_is_needed(official: dict) -> None:
    assert len(RULES) == 9
    from ovikit.checkpoints.keymap import KeyMap

    whole = {name: ovi_format().keymap.ours(name) for name in official}
    for rule in RULES:
        rest = KeyMap([other for other in RULES if other is not rule])
        names = {name: _or_none(rest, name) for name in official}
        assert names != whole, f"{rule} changes nothing"


def _or_none(keymap, name: str) -> str | None:
    try:
        return keymap.ours(name)
    except KeyError:
        return None


def test_forward_of_a_five_second_clip_has_the_right_shapes(full: JointModel) -> None:
    """704 x 704, 121 frames, on the meta device: the whole graph without a number."""
    with torch.device("meta"):
        latents = AV(video=torch.empty(1, 48, 31, 44, 44), audio=torch.empty(1, 20, 157))
        text = Text(torch.empty(1, 77, 4096), torch.empty(1, dtype=torch.int64))
        sigma = torch.empty(1)
    grids = AV(
        video=TokenGrid.uniform("video", (31, 44, 44), 4 / 24, 1 / 24),
        audio=TokenGrid.uniform("audio", (157, 1, 1), 0.032),
    )
    with torch.no_grad():
        context = full.embed_text(AV(text, text), cache=True)
        out = full(latents, AV(sigma, sigma), context, grids, clean_steps=AV(video=1))
    assert out["video"].shape == latents["video"].shape
    assert out["audio"].shape == latents["audio"].shape
