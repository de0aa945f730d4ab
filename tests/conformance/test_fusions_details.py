"""What single fusions promise: whose noise gates what, strengths, one softmax over both streams."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fusions_kit import APART, OTHER, build, drawn, entering, equal, inputs, velocity
from torch import Tensor, nn

from ovikit.networks.rotary import rotate
from ovikit.types import AV, Modality, NoiseConditioning, Perturbation, Stream


def noisier(stream: Stream, row: int) -> Stream:
    """The stream with another embedding of one of its noise levels; its tokens and blocks see the old one."""
    embedding = stream.noise.embedding.clone()
    embedding[:, row] += drawn(embedding.shape[-1], seed=6)
    return replace(stream, noise=NoiseConditioning(embedding, stream.noise.projection, stream.noise.spans))


def after(read: nn.Module, mine: Stream, other: Stream) -> Tensor:
    with torch.no_grad():
        return read(mine, other).tokens


def test_the_gate_is_the_last_noise_level_of_what_is_read() -> None:
    model = build("gated-residual", APART)
    streams, read = entering(model, clean_steps=AV(video=1)), model.layers[0].fusion.reads["audio"]
    video, audio = streams["video"], streams["audio"]
    assert video.noise.spans == (4, 12)
    for affine in (read.affine, read.other_affine):  # what is left is the gate
        nn.init.zeros_(affine.up.weight)
        nn.init.zeros_(affine.up.bias)
    plain = after(read, audio, video)
    assert torch.equal(after(read, audio, noisier(video, 0)), plain)
    assert torch.equal(after(read, noisier(audio, 0), video), plain)
    gated = after(read, audio, noisier(video, 1))
    ratio = (gated - audio.tokens) / (plain - audio.tokens)
    assert (ratio - 1).abs().max() > 1e-3
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-9), (
        "a gate of channels, the same for all tokens"
    )
    nn.init.zeros_(read.gate.up.weight)
    nn.init.constant_(read.gate.up.bias, -1.0)
    assert torch.equal(after(read, audio, video), audio.tokens)


def test_shift_and_scale_are_of_the_own_noise_level_and_span() -> None:
    model = build("gated-residual", APART)
    streams, read = entering(model, clean_steps=AV(video=1)), model.layers[0].fusion.reads["video"]
    video, audio = streams["video"], streams["audio"]
    plain = after(read, video, audio)
    for row, span in ((0, slice(0, 4)), (1, slice(4, 16))):
        changed = (after(read, noisier(video, row), audio) - plain).abs().amax((0, 2)) > 0
        assert changed[span].all()
        assert changed.sum() == span.stop - span.start
    # As what is read, each of the two levels of the video reaches the audio through the keys and values of its span.
    nn.init.zeros_(model.layers[0].fusion.reads["audio"].gate.up.weight)
    heard = model.layers[0].fusion.reads["audio"]
    assert not torch.equal(after(heard, audio, noisier(video, 0)), after(heard, audio, video))


@pytest.mark.parametrize("m", ["video", "audio"])
def test_strength_is_a_factor(m: Modality) -> None:
    model = build("bridge", APART)
    streams, read = entering(model), model.layers[0].fusion.reads[m]
    mine, other = streams[m], streams[OTHER[m]]
    updates = []
    for strength in (1.0, 2.5, 0.0):
        nn.init.constant_(read.strength, strength)
        updates.append(after(read, mine, other) - mine.tokens)
    assert torch.allclose(2.5 * updates[0], updates[1], atol=1e-12)
    assert not updates[2].any()


def test_joint_attention_is_one_softmax_over_the_valid_tokens_of_both() -> None:
    model = build("joint")
    lengths = AV(video=torch.tensor([16, 5]), audio=torch.tensor([3, 9]))
    streams = entering(model, lengths=lengths)
    layer = model.layers[0]
    mods = {m: layer.block(m).modulation(s.noise) for m, s in streams.items()}
    with torch.no_grad():
        met = layer.fusion._self_stage(AV.of({m: layer.block(m) for m in OTHER}), streams, AV.of(mods))
        heads = {m: layer.block(m).self_heads(s.tokens, mods[m]) for m, s in streams.items()}
        for b in range(2):
            by = {m: s.rotations["fusion"] for m, s in streams.items()}
            kept = {m: int(lengths[m][b]) for m in OTHER}
            keys = torch.cat([rotate(heads[m].key[b : b + 1], by[m])[:, : kept[m]] for m in OTHER], dim=1)
            values = torch.cat([heads[m].value[b : b + 1, : kept[m]] for m in OTHER], dim=1)
            for m, s in streams.items():
                q = rotate(heads[m].query[b : b + 1], by[m])
                weights = (torch.einsum("bnhd,bmhd->bhnm", q, keys) / math.sqrt(12)).softmax(-1)
                attended = torch.einsum("bhnm,bmhd->bnhd", weights, values)
                expected = layer.block(m).self_merge(s.tokens, attended.expand(2, -1, -1, -1), mods[m])[b]
                assert torch.allclose(met[m].tokens[b, : kept[m]], expected[: kept[m]], atol=1e-12)


def test_the_released_fusion_is_the_default_of_its_options() -> None:
    plain, told = build("ovi"), build("ovi", direction="both", update="parallel", layers="full", init_scale=0.1)
    assert equal(velocity(plain, *inputs()), velocity(told, *inputs()))
    listed = build("ovi", layers=[1, 0])
    assert equal(velocity(plain, *inputs()), velocity(listed, *inputs()))
    cut = velocity(plain, *inputs(), perturbation=Perturbation(cut_fusion=True))
    assert not equal(velocity(plain, *inputs()), cut)
