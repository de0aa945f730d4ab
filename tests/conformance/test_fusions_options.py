"""What the options that fusions share do, and what is refused, in which words."""

from __future__ import annotations

import re

import pytest
import torch
from fusions_kit import (
    APART,
    EVEN,
    MEETING,
    ORDERED,
    OTHER,
    READERS,
    UNEVEN,
    bare,
    build,
    close,
    drawn,
    entering,
    equal,
    fusion_of,
    inputs,
    velocity,
    with_tokens,
)  # fmt: skip
from pydantic import ValidationError
from torch import Tensor

from ovikit.kernel.manager import installed_catalog
from ovikit.networks.attention import sdpa
from ovikit.networks.joint import JointModel
from ovikit.types import AV, Modality, Perturbation

ONE_LAYER = EVEN._replace(depth=AV(1, 1))


def depends(model: JointModel, out: Modality, reader: Modality) -> bool:
    """Whether a modality after the first layer depends on the weights with which one reads."""
    weights = [p for name, p in model.named_parameters() if f".fusion.reads.{reader}." in name]
    result = model.layers[0](entering(model))[out].tokens.square().sum()
    gradients = torch.autograd.grad(result, weights, allow_unused=True)
    return any(one is not None and bool(one.any()) for one in gradients)


@pytest.mark.parametrize("name", ORDERED)
def test_the_orders_differ_in_what_the_second_reader_sees(name: str) -> None:
    models = {update: build(name, ONE_LAYER, update=update) for update in ("parallel", "audio-first", "video-first")}
    for update, model in models.items():
        assert depends(model, "video", "video")
        assert depends(model, "audio", "audio")
        assert depends(model, "video", "audio") == (update == "audio-first")
        assert depends(model, "audio", "video") == (update == "video-first")
    parallel, audio_first, video_first = (velocity(model, *inputs()) for model in models.values())
    assert torch.equal(audio_first["audio"], parallel["audio"])
    assert torch.equal(video_first["video"], parallel["video"])
    assert (audio_first["video"] - parallel["video"]).abs().max() > 1e-6
    assert (video_first["audio"] - parallel["audio"]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["bridge", "additive"])
def test_the_second_reads_what_came_of_the_first(name: str) -> None:
    """Before a block the result of reading is a stream: to read it in parallel is to read second."""
    parallel, ordered = (build(name, ONE_LAYER, update=update).layers[0] for update in ("parallel", "audio-first"))
    streams = entering(build(name, ONE_LAYER))
    with torch.no_grad():
        heard = parallel.fusion.reads["audio"](streams["audio"], streams["video"])
        expected = parallel.fusion.reads["video"](streams["video"], heard)
        seen: list[Tensor] = []
        original = ordered.blocks["video"].self_heads
        ordered.blocks["video"].self_heads = lambda x, mod: (seen.append(x), original(x, mod))[1]
        ordered(streams)
    assert torch.equal(seen[0], expected.tokens)


@pytest.mark.parametrize("name", MEETING)
def test_layers_without_fusion_run_alone(name: str) -> None:
    model = build(name, layers=[1])
    assert [layer.fusion is None for layer in model.layers] == [True, False]
    assert not any(key.startswith("layers.0.fusion") for key in model.state_dict())
    streams = entering(model)
    alone = with_tokens(streams, audio=streams["audio"].tokens + drawn(2, 9, 24, seed=4))
    with torch.no_grad():
        assert torch.equal(model.layers[0](streams)["video"].tokens, model.layers[0](alone)["video"].tokens)
        assert not torch.equal(model.layers[1](streams)["video"].tokens, model.layers[1](alone)["video"].tokens)
    assert not equal(velocity(model, *inputs()), velocity(model, *inputs(), perturbation=Perturbation(cut_fusion=True)))


@pytest.mark.parametrize("name", MEETING)
def test_patterns_choose_layers(name: str) -> None:
    def fused(layers: str) -> list[int]:
        built = fusion_of(name, EVEN._replace(depth=AV(9, 10)), layers=layers)
        return [i for i, layer in enumerate(built) if layer is not None]

    assert fused("full") == list(range(9))
    assert fused("shallow") == [0, 1, 2]
    assert fused("distributed") == [0, 3, 6]
    assert fused("progressive") == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("name", MEETING)
def test_a_layer_that_one_tower_lacks_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape("layers names 3, 7, but the layers that both towers have are 0 to 2")
    ):
        fusion_of(name, EVEN._replace(depth=AV(3, 4)), layers=[0, 3, 7])


@pytest.mark.parametrize("name", UNEVEN)
def test_beyond_the_shallower_tower_the_deeper_one_runs_alone(name: str) -> None:
    model = build(name, APART)
    assert [layer.fusion is None for layer in model.layers] == [False, False, True]
    last = Perturbation(skip_layers=(2,))
    out, without = velocity(model, *inputs()), velocity(model, *inputs(), perturbation=last)
    assert torch.equal(out["audio"], without["audio"])
    assert not torch.allclose(out["video"], without["video"])


def refused(name: str, **options: object) -> str:
    """The one sentence in which options are refused."""
    with pytest.raises(ValidationError) as caught:
        installed_catalog().find("fusion", name).component.config.model_validate(options)
    (only,) = caught.value.errors()
    return only["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize("name", ORDERED)
def test_an_order_of_one_is_refused(name: str) -> None:
    assert refused(name, direction="a2v", update="audio-first") == (
        "update 'audio-first' has no meaning with direction 'a2v': one modality alone reads, so there is no order; "
        "leave update out"
    )


def test_joint_attention_refuses_what_has_no_meaning_for_it() -> None:
    assert refused("joint", update="audio-first") == (
        "update has no meaning here: both modalities are read in one softmax, so neither reads first"
    )
    assert refused("joint", init_scale=0.1) == (
        "init_scale has no meaning here: joint attention has no weights beside the towers' own"
    )


@pytest.mark.parametrize("name", MEETING)
def test_layers_that_say_nothing_are_refused(name: str) -> None:
    told = "should be one of full, shallow, distributed, progressive, or a list of layers counted from 0"
    assert refused(name, layers="fulll") == told
    assert refused(name, layers=[0, -1]) == told
    assert refused(name, layers=[]) == "names no layer; towers that never meet are fusion 'none'"
    assert refused(name, layers=[1, 1]) == "names a layer twice"


def test_towers_that_cannot_meet_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=re.escape(
            "joint attention needs towers with equal heads, and these have 2 x 12 (video) and 3 x 8 (audio)"
        ),
    ):
        fusion_of("joint", EVEN._replace(heads=AV(2, 3)))
    with pytest.raises(ValueError, match="Ovi's fusion needs towers with equal head width"):
        fusion_of("ovi", EVEN._replace(heads=AV(2, 3)))


class Spread:
    """Attention whose tokens are taken to be spread over processes."""

    local = staticmethod(sdpa)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        return sdpa(query, key, value, lengths)


@pytest.mark.parametrize("name", MEETING)
def test_what_needs_whole_streams_refuses_spread_tokens(name: str) -> None:
    reasons = {
        "joint": "puts both streams into one attention",
        "asymmetric-window": "cuts the streams into windows",
        "global-local": "cuts the streams into windows",
        "additive": "resamples the streams in time",
    }
    if name not in reasons:
        assert close(velocity(build(name), *inputs()), velocity(build(name, attend=Spread()), *inputs()))
        return
    message = (
        f"fusion '{name}' {reasons[name]}, so a clip's tokens cannot be spread over processes: use "
        "runtime.parallel.sequence=1"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        bare(name, EVEN, attend=Spread())


def test_joint_attention_that_is_skipped_gives_back_each_streams_values() -> None:
    model = build("joint")
    skipped = Perturbation(skip_self=(0, 1))
    out = velocity(model, *inputs(), perturbation=skipped)
    alone = velocity(model, *inputs(), perturbation=Perturbation(skip_self=(0, 1), cut_fusion=True))
    assert equal(out, alone)
    assert not close(out, velocity(model, *inputs()))


@pytest.mark.parametrize("name", [name for name in MEETING if name != "joint"])
def test_skipping_self_attention_leaves_the_fusion(name: str) -> None:
    skipped = {"skip_self": (0, 1)}
    model = build(name)
    out = velocity(model, *inputs(), perturbation=Perturbation(**skipped))
    alone = velocity(model, *inputs(), perturbation=Perturbation(**skipped, cut_fusion=True))
    assert not close(out, alone)
    assert not close(out, velocity(model, *inputs()))


@pytest.mark.parametrize("name", MEETING)
def test_ways_of_running_parts_of_a_batch_agree(name: str) -> None:
    """Guidance passes as one batch: each part is what it is alone."""
    model = build(name)
    latents, sigma, text = inputs()
    parts = (Perturbation(), Perturbation(cut_fusion=True))
    mixed = velocity(model, latents, sigma, text, perturbation=parts)
    for i, one in enumerate(parts):
        alone = velocity(model, latents, sigma, text, perturbation=one)
        assert close(mixed.map(lambda x, i=i: x[i : i + 1]), alone.map(lambda x, i=i: x[i : i + 1]))


def test_every_direction_names_who_reads() -> None:
    assert {d: tuple(fusion_of("bridge", direction=d)[0].reads) for d in READERS} == READERS
    assert set(OTHER) == {"video", "audio"}
