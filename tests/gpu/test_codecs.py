"""Codecs and the text encoder on a CUDA device: the CPU's numbers, wherever their input lies, and back again."""

from __future__ import annotations

from collections.abc import Iterator

import official_kit as kit
import pytest
import torch
from torch import Tensor

from ovikit.networks.protocols import Codec, Conditioner, Weighted
from ovikit.recipe.build import build_codecs, build_conditioner, clip_spec, find_assets
from ovikit.recipe.load import load_recipe
from ovikit.types import AV, ClipSpec

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
PROMPTS = ["a red ball <S>hello<E>", "", "rain"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipSpec, AV[Codec], Conditioner]:
    root = tmp_path_factory.mktemp("weights")
    recipe = load_recipe(kit.write_recipe(root / "tiny.yaml"))
    assets = find_assets(kit.make_folder(root / "weights"))
    return clip_spec(recipe), build_codecs(recipe, assets), build_conditioner(recipe, assets)


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """Without TF32, which cuDNN's convolutions are allowed by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.cpu() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_codec(parts: tuple[ClipSpec, AV[Codec], Conditioner], modality: str) -> None:
    clip, codec = parts[0], parts[1][modality]  # type: ignore[index]
    assert isinstance(codec, Weighted)
    form = (clip.frames, clip.height_px, clip.width_px, 3) if modality == "video" else (clip.samples,)
    samples, latents = drawn(2, *form).clamp(-1, 1), drawn(2, *codec.shape())
    codec.load("cpu")
    encoded, decoded = codec.encode(samples), codec.decode(latents)
    codec.load(DEVICE)
    for place in ("cpu", DEVICE):
        found = codec.encode(samples.to(place))
        assert found.device.type == DEVICE
        assert apart(found, encoded) < 1e-3
        assert apart(codec.decode(latents.to(place)), decoded) < 1e-3
    if modality == "video":
        assert apart(codec.encode(samples[:, :1]), encoded[:, :, :1]) < 1e-3
    codec.load("cpu")
    assert torch.equal(codec.decode(latents), decoded)
    codec.unload()
    codec.load(DEVICE)
    assert apart(codec.decode(latents), decoded) < 1e-3


def test_the_text_encoder(parts: tuple[ClipSpec, AV[Codec], Conditioner]) -> None:
    conditioner = parts[2]
    assert isinstance(conditioner, Weighted)
    conditioner.load("cpu")
    wanted = conditioner.encode(PROMPTS)
    conditioner.unload()
    conditioner.load(DEVICE)
    found = conditioner.encode(PROMPTS)
    assert found.tokens.device.type == found.lengths.device.type == DEVICE
    assert found.lengths.tolist() == wanted.lengths.tolist()
    assert apart(found.tokens, wanted.tokens) < 1e-4
    for row, length in zip(found.tokens, found.lengths.tolist(), strict=True):
        assert not row[length:].any()
    conditioner.load("cpu")
    assert torch.equal(conditioner.encode(PROMPTS).tokens, wanted.tokens)
