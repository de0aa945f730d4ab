"""The networks that listen, against other implementations, and their weights by the published names.

The published weights are not at hand. With the packages panns-inference 0.1.1, hear21passt 0.0.26 and
audiobox-aesthetics 0.0.4, which do not install here, they were compared once, outside of these tests: the docstrings of
their modules tell the figures.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from listening_kit import (
    CONFIG,
    KINDS,
    SCALE,
    SMALL_PASST,
    noise,
    randomised,
    small_cnn14,
    small_size,
    use_small_networks,
    write_aesthetics,
    write_small_weights,
)
from safetensors.torch import load_file
from torch import nn

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.needs import network
from ovikit_versebench import mel
from ovikit_versebench.listening import wavlm
from ovikit_versebench.listening.aesthetics import read_aesthetics
from ovikit_versebench.listening.cnn14 import FRONTS, Cnn14
from ovikit_versebench.listening.passt import Passt, log_mel
from ovikit_versebench.listening.tagging import Panns

# Weights by their published names.


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (partial(small_cnn14, FRONTS[16000]), "conv_block3.bn2.running_var"),
        (partial(small_cnn14, FRONTS[32000]), "spectrogram_extractor.stft.conv_imag.weight"),
        (partial(Passt, SMALL_PASST), "blocks.1.attn.qkv.bias"),
        (partial(wavlm.Aesthetics, small_size()), "wavlm_model.encoder.layers.0.self_attn.grep_a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrong", ["missing", "unexpected", "misshapen"])
def test_weights_are_loaded_by_their_names_and_by_no_others(tmp_path: Path, make, name: str, wrong: str) -> None:
    state, path = make().state_dict(), tmp_path / "weights.pth"
    torch.save(state, path)
    network(make, path)
    if wrong == "missing":
        del state[name]
    elif wrong == "unexpected":
        name = "another.weight"
        state[name] = torch.zeros(1)
    else:
        state[name] = torch.zeros(3, 1)
    torch.save(state, path)
    with pytest.raises(UserError, match=name) as error:
        network(make, path)
    assert str(path) in str(error.value)


def test_the_published_networks_have_these_sizes() -> None:
    """Numbers of the packages' networks, counted in their state dicts."""
    with torch.device("meta"):
        found = {
            "Cnn14 at 16 kHz": Cnn14(FRONTS[16000]),
            "Cnn14 at 32 kHz": Cnn14(FRONTS[32000]),
            "PaSST": Passt(),
            "AudioBox, heads of five layers": wavlm.Aesthetics(wavlm.AestheticsSize()),
        }
    assert {name: sum(value.numel() for value in net.state_dict().values()) for name, net in found.items()} == {
        "Cnn14 at 16 kHz": 81_049_500,
        "Cnn14 at 32 kHz": 81_853_340,
        "PaSST": 86_153_758,
        "AudioBox, heads of five layers": 103_859_112,
    }


def test_cnn14s_files_hold_more_than_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one for 16 kHz arrays of NumPy, the one for 32 kHz is of PyTorch before 1.6; code is run by neither."""
    write_small_weights(tmp_path)
    use_small_networks(monkeypatch)
    for rate in (16000, 32000):
        judge = Panns(Assets(tmp_path), None, "fixed", rate, 8.0)
        assert judge.needs[0].missing is None
        assert isinstance(judge._network, Cnn14)
    path = tmp_path / "Cnn14_16k_mAP=0.438.pth"
    torch.save({"model": {"x": torch.zeros(1)}, "sampler": Path("code")}, path)
    with pytest.raises(UserError, match="wants to run code"):
        _ = Panns(Assets(tmp_path), None, "fixed", 16000, 8.0)._network


# Spectra.


@pytest.mark.parametrize("rate", [16000, 32000])
def test_cnn14s_convolutions_are_a_fourier_transform(rate: int) -> None:
    net, x = small_cnn14(FRONTS[rate]), noise(0.5, rate)
    window = FRONTS[rate].window
    padded = nn.functional.pad(x[None, None], (window // 2, window // 2), mode="reflect")
    power = net.spectrogram_extractor["stft"](padded)[0]
    bell = torch.hann_window(window, dtype=torch.float64)
    expected = torch.stft(x.double(), window, FRONTS[rate].hop, window=bell, return_complex=True).abs().square().T
    torch.testing.assert_close(power.double(), expected, atol=1e-4, rtol=1e-4)


def test_passts_spectrum_by_hand() -> None:
    x = noise(0.5, 32000)
    flat, bell = x.double()[1:] - 0.97 * x.double()[:-1], torch.zeros(1024, dtype=torch.float64)
    bell[112:912] = torch.hann_window(800, periodic=False, dtype=torch.float64)
    mirrored = torch.cat([flat[1:513].flip(0), flat, flat[-513:-1].flip(0)])
    frames = mirrored.unfold(0, 1024, 320) * bell
    power = torch.fft.rfft(frames).abs().square()
    expected = ((power @ mel.kaldi_filters(32000, 1024, 128, 0.0, 15000.0) + 1e-5).log() + 4.5) / 5
    torch.testing.assert_close(log_mel(x[None])[0].double(), expected.T, atol=1e-4, rtol=1e-4)


# Networks.


def test_passts_blocks_are_transformer_layers() -> None:
    net = randomised(Passt(SMALL_PASST))
    own = net.blocks[0].state_dict()
    layer = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
    renamed = {
        "self_attn.in_proj_weight": own["attn.qkv.weight"], "self_attn.in_proj_bias": own["attn.qkv.bias"],
        "self_attn.out_proj.weight": own["attn.proj.weight"], "self_attn.out_proj.bias": own["attn.proj.bias"],
    }  # fmt: skip
    for theirs, ours in (("linear1", "mlp.fc1"), ("linear2", "mlp.fc2"), ("norm1", "norm1"), ("norm2", "norm2")):
        renamed |= {f"{theirs}.{part}": own[f"{ours}.{part}"] for part in ("weight", "bias")}
    layer.load_state_dict(renamed)
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.blocks[0](x), layer(x), atol=1e-5, rtol=1e-5)


def test_passt_hears_ten_seconds_at_99_places() -> None:
    net = randomised(Passt(SMALL_PASST))
    sound = noise(10.0, 32000)[None]
    assert log_mel(sound).shape == (1, 128, 1000)
    with torch.no_grad():
        whole = net(log_mel(sound))
        net.time_new_pos_embed[..., 98] += 1
        assert not torch.equal(net(log_mel(sound))[1], whole[1])
        short = net(log_mel(sound[:, :32000]))
        net.time_new_pos_embed[..., 9:] += 1
        assert torch.equal(net(log_mel(sound[:, :32000]))[1], short[1])
    assert [part.shape for part in whole] == [(1, 16), (1, KINDS)]


def transformers_wavlm(net: wavlm.WavLM) -> nn.Module:
    """The same network by transformers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.WavLMConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, conv_dim=[8] * 7,
        layerdrop=0.0, num_buckets=320, max_bucket_distance=800,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        theirs = transformers.WavLMModel(config).eval()
    pairs = [
        ("feature_extractor.conv_layers.0.2", "feature_extractor.conv_layers.0.layer_norm"),
        ("layer_norm", "feature_projection.layer_norm"),
        ("post_extract_proj", "feature_projection.projection"),
        ("encoder.layer_norm", "encoder.layer_norm"),
        ("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
        ("encoder.pos_conv.0.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
        ("encoder.pos_conv.0", "encoder.pos_conv_embed.conv"),
        *((f"feature_extractor.conv_layers.{i}.0", f"feature_extractor.conv_layers.{i}.conv") for i in range(7)),
    ]
    for i in range(2):
        ours, other = f"encoder.layers.{i}", f"encoder.layers.{i}"
        pairs += [(f"{ours}.self_attn.{one}_proj", f"{other}.attention.{one}_proj") for one in ("q", "k", "v", "out")]
        pairs += [
            (f"{ours}.self_attn.grep_linear", f"{other}.attention.gru_rel_pos_linear"),
            (f"{ours}.self_attn.grep_a", f"{other}.attention.gru_rel_pos_const"),
            (f"{ours}.self_attn.relative_attention_bias", f"{other}.attention.rel_attn_embed"),
            (f"{ours}.self_attn_layer_norm", f"{other}.layer_norm"),
            (f"{ours}.fc1", f"{other}.feed_forward.intermediate_dense"),
            (f"{ours}.fc2", f"{other}.feed_forward.output_dense"),
            (f"{ours}.final_layer_norm", f"{other}.final_layer_norm"),
        ]
    state = {"masked_spec_embed": net.state_dict()["mask_emb"]}
    for name, value in net.state_dict().items():
        found = [(a, b) for a, b in pairs if name == a or name.startswith(f"{a}.")]
        if found:
            ours, other = found[0]
            state[other + name.removeprefix(ours)] = value
    theirs.load_state_dict(state)
    return theirs


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_wavlm_is_that_of_transformers() -> None:
    net = randomised(wavlm.WavLM(small_size()))
    theirs, sounds = transformers_wavlm(net), torch.stack([noise(1.0, 16000, seed) for seed in range(2)])
    with torch.no_grad():
        layers, here = net(sounds, torch.tensor([16000, 16000]))
        expected = theirs(sounds, output_hidden_states=True).hidden_states
        assert here.all()
        assert len(layers) == len(expected) == 3
        torch.testing.assert_close(layers, torch.stack(expected), atol=2e-5, rtol=1e-4)
        # where sounds end early, the frames behind them are neither heard by the others nor counted
        sounds = sounds * (torch.arange(16000) < torch.tensor([[16000], [9000]]))
        layers, here = net(sounds, torch.tensor([16000, 9000]))
        assert here.sum(dim=1).tolist() == [49, 28]  # 9000 samples are 27.6 shares of 16000 // 49
        projected = theirs.feature_projection(theirs.feature_extractor(sounds).transpose(1, 2))[0]
        last = theirs.encoder(projected, attention_mask=here).last_hidden_state
        torch.testing.assert_close(layers[-1][here], last[here], atol=2e-5, rtol=1e-4)


def test_distances_between_frames_are_exact_near_and_coarse_far() -> None:
    distances = torch.tensor([0, 1, 79, 80, 81, 799, 800, 5000, -1, -79, -800])
    found = wavlm.buckets(distances).tolist()
    assert found[:3] == [0, 161, 239]
    assert found[3:5] == [240, 240]
    assert found[5:8] == [319, 319, 319]
    assert found[8:] == [1, 79, 159]


# AudioBox's files.


def test_a_folder_and_a_checkpoint_of_audiobox_are_one_network(tmp_path, monkeypatch) -> None:
    use_small_networks(monkeypatch)
    (tmp_path / "hub").mkdir()
    (tmp_path / "official").mkdir()
    write_aesthetics(tmp_path / "hub")
    state = load_file(tmp_path / "hub" / "model.safetensors")
    checkpoint = {
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "model_cfg": CONFIG, "target_transform": SCALE,
    }  # fmt: skip
    torch.save(checkpoint, tmp_path / "official" / "checkpoint.pt")
    (first, scale), (second, same), (third, _) = (
        read_aesthetics(tmp_path / name) for name in ("hub", "official", "official/checkpoint.pt")
    )
    assert scale == same
    assert scale.mean == {"CE": 5.0, "CU": 6.0, "PC": 7.0, "PQ": 8.0}
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(value, third.state_dict()[name])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"nth_layer": 7}, "nth_layer 7"),
        ({"use_weighted_layer_sum": False}, "use_weighted_layer_sum"),
        ({"target_transform": {"CE": {"mean": 1.0}}}, "target_transform"),
        ({"proj_num_layer": 3}, "missing"),
    ],
)
def test_another_network_of_audiobox_is_refused(tmp_path, monkeypatch, changed, told) -> None:
    use_small_networks(monkeypatch)
    write_aesthetics(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match=told):
        read_aesthetics(tmp_path)


def test_what_is_no_checkpoint_of_audiobox_is_told(tmp_path) -> None:
    with pytest.raises(UserError, match="there are no weights of AudioBox"):
        read_aesthetics(tmp_path)
    torch.save({"state_dict": {}, "model_cfg": Path("code")}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="without running code"):
        read_aesthetics(tmp_path)
    write_aesthetics(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        read_aesthetics(tmp_path)
