"""IB by ImageBind: the network against what the published package gave, and both rules by hand.

The package does not install here; it was run once, outside of these tests, on the weights and inputs of the kit.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from binding_kit import (
    NAME,
    OTHERS,
    SMALL,
    film,
    published_state,
    small_imagebind,
    use_small_network,
    wave,
    waving_state,
    write_small_weights,
)
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.errors import UserError
from ovikit.evaluation.protocols import PromptItem, Unscored
from ovikit.types import Clip
from ovikit_versebench.binding import score
from ovikit_versebench.binding.imagebind import ImageBind, TrunkSize, _Attention, without_values
from ovikit_versebench.binding.score import ImageBindScore, beginnings, covering, log_mel, moments, squares

ITEM = PromptItem("0", "x")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_network(monkeypatch)
    return write_small_weights(tmp_path)


def judge(weights: Path, rules: str = "fixed", first_s: float = 8.0) -> ImageBindScore:
    return ImageBindScore(Assets(weights), NAME, rules, first_s)


def ib(found: ImageBindScore, clip: Clip) -> float | Unscored:
    features = found.features(clip)
    return found.score(features, features, ITEM)["ib"]


# The network.


def test_a_small_network_gives_what_the_published_package_gave() -> None:
    """Recorded from imagebind-packaged 0.1.2, ``ImageBindModel`` of these sizes with these weights in evaluation mode,
    by PyTorch 2.13 on the CPU: its outputs for single clips, rounded to 1e-6."""
    net = ImageBind(replace(SMALL, image_px=224))
    net.load_state_dict(waving_state(net))
    with torch.inference_mode():
        seen, heard = net.see(wave((2, 3, 2, 224, 224), 0.0)), net.hear(wave((2, 128, 204), 1.0))
    expected_seen = torch.tensor([
        [-0.294216, 0.145739, 0.514091, 0.426109, -0.090843, -0.513326, -0.363855, 0.205408],
        [-0.297243, 0.142767, 0.512875, 0.42777, -0.087994, -0.512369, -0.365868, 0.20276],
    ])  # fmt: skip
    expected_heard = torch.tensor([
        [-4.939391, 2.501919, 10.130242, 9.013656, -1.215572, -10.337733, -8.027601, 3.561784],
        [-4.894655, 2.772521, 10.238332, 8.810766, -1.531691, -10.411655, -7.76052, 3.863693],
    ])  # fmt: skip
    torch.testing.assert_close(seen, expected_seen, atol=5e-6, rtol=0)
    torch.testing.assert_close(heard, expected_heard, atol=1e-4, rtol=0)


def test_names_and_shapes_are_those_of_the_published_network() -> None:
    """Of the package's state dict at full size, its tensors of vision and audio."""
    state = without_values().state_dict()
    assert len(state) == 569
    assert sum(value.numel() for value in state.values()) == 719_065_089
    told = "\n".join(sorted(f"{name} {tuple(value.shape)}" for name, value in state.items()))
    digest = "511b8de528661187a551fb4740f63c26331d93517e297bec501f18bfa3c5e004"
    assert hashlib.sha256(told.encode()).hexdigest() == digest


@pytest.mark.parametrize("extra_key", [False, True])
def test_attention_is_pytorchs(extra_key: bool) -> None:
    size = TrunkSize(12, 1, 3)
    ours = _Attention(size, extra_key)
    theirs = nn.MultiheadAttention(12, 3, add_bias_kv=extra_key, batch_first=True)
    state = {name: wave(tuple(value.shape), place) for place, (name, value) in enumerate(theirs.state_dict().items())}
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    x = wave((2, 5, 12), 3.0)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_the_scale_of_sounds_ends_at_100() -> None:
    net = small_imagebind()
    net.load_state_dict(waving_state(net))
    x = wave((1, 128, 204), 0.0)
    for told, length in ((3.0, 20.0855), (9.0, 100.0)):
        net.modality_postprocessors["audio"][1].log_logit_scale.fill_(told)
        with torch.inference_mode():
            heard = net.hear(x)
        assert float(heard.norm()) == pytest.approx(length, rel=1e-4)


# The file.


def test_other_modalities_are_left_out(weights: Path) -> None:
    wanted = waving_state(small_imagebind())
    held = judge(weights)._network.state_dict()
    assert set(held) == set(wanted)
    assert not set(held) & set(OTHERS)
    for name, value in wanted.items():
        torch.testing.assert_close(held[name].cpu(), value, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("modality_trunks.audio.blocks.1.attn.bias_v", None),
        ("modality_preprocessors.vision.rgbt_stem.proj.1.weight", None),
        ("modality_postprocessors.audio.1.log_logit_scale", None),
        ("modality_trunks.vision.blocks.2.norm_1.weight", (16,)),
        ("modality_postprocessors.vision.1.log_logit_scale", ()),
        ("modality_trunks.smell.blocks.0.norm_1.weight", (16,)),
        ("text.token_embedding.weight", (2, 2)),
        ("modality_heads.audio.2.weight", (16, 8)),
    ],
)
def test_a_file_of_another_network_is_told(weights: Path, name: str, shape: tuple[int, ...] | None) -> None:
    """A tensor that is missing (no shape), unknown, or of another shape."""
    state = published_state()
    if shape is None:
        del state[name]
    else:
        state[name] = torch.zeros(shape)
    torch.save(state, weights / NAME)
    with pytest.raises(UserError, match=name) as error:
        judge(weights).features(film(2))
    assert str(weights / NAME) in str(error.value)


def test_missing_weights_are_a_need(tmp_path: Path) -> None:
    (need,) = judge(tmp_path).needs
    assert need.missing is not None
    assert "not for commercial use" in need.licence


def test_versions_tell_rules_and_weights_apart(weights: Path) -> None:
    told = {judge(weights).version, judge(weights, "official").version, judge(weights, "official", 5.0).version}
    assert judge(weights, "fixed", 5.0).version in told  # it has no part in them
    torch.save(published_state() | {OTHERS[0]: torch.ones(2)}, weights / NAME)
    told.add(judge(weights).version)
    assert len(told) == 4


# What is listened to.


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_the_spectrum_is_transformers() -> None:
    """As it makes Kaldi's; a spectrum that is too short ends in what 0 becomes."""
    pytest.importorskip("transformers")
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    sound = film(2).audio
    assert sound is not None
    kaldi = {"norm": None, "mel_scale": "kaldi", "triangularize_in_mel_space": True}
    filters = mel_filter_bank(257, 128, 20, 8000, 16000, **kaldi)
    filters[-1] = 0
    expected = spectrogram(
        sound.double().numpy() + 0.3, window_function(400, "hann", periodic=False), frame_length=400, hop_length=160,
        fft_length=512, power=2.0, center=False, preemphasis=0.97, mel_filters=filters, log_mel="log",
        mel_floor=1.192092955078125e-07, remove_dc_offset=True,
    )  # fmt: skip
    found = log_mel(sound, 128, 204)
    assert found.shape == (1, 128, 204)
    np.testing.assert_allclose(found[0, :, :198].numpy(), (expected + 4.268) / 9.138, atol=1e-4)
    np.testing.assert_allclose(found[0, :, 198:].numpy(), 4.268 / 9.138, atol=1e-6)
    assert log_mel(sound.repeat(2), 128, 204).shape == (1, 128, 204)


@pytest.mark.parametrize(
    ("seconds", "starts"), [(8.0, (0, 2, 4)), (5.0, (0, 1, 2)), (2.0, (0, 0, 0)), (1.0, (0, 0, 0))]
)
def test_av_benchmark_leaves_the_end_of_a_sound_out(seconds: float, starts: tuple[int, ...]) -> None:
    assert beginnings(round(seconds * 16000)) == [start * 16000 for start in starts]


def test_av_benchmarks_pieces_begin_where_a_float_of_seconds_says() -> None:
    """2.006 s less 2 s is a little less than 0.006 s, a third of which are 32 samples."""
    assert beginnings(32096) == [0, 31, 63]


@pytest.mark.parametrize(("whole", "length"), [(32000, 32000), (32001, 32000), (80640, 32000), (121, 48), (3, 48)])
def test_pieces_cover_the_whole(whole: int, length: int) -> None:
    starts = covering(whole, length)
    heard = {at for start in starts for at in range(start, start + length)}
    assert heard >= set(range(whole))
    assert max(heard) == max(whole, length) - 1
    assert (len(starts) - 1) * length < whole
    steps = {after - before for before, after in itertools.pairwise(starts)}
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize(("rules", "hears"), [("fixed", True), ("official", False)])
def test_whether_the_end_is_seen_and_heard(weights: Path, rules: str, hears: bool) -> None:
    clip, found = film(6), judge(weights, rules, 6.0)
    before = found.features(clip)
    assert clip.video is not None and clip.audio is not None  # noqa: PT018
    video, audio = clip.video.clone(), clip.audio.clone()
    video[-1] //= 2
    audio[-8000:] *= 0.1
    after = found.features(replace(clip, video=video, audio=audio))
    assert (before["seen"] != after["seen"]) == hears
    assert (before["heard"] != after["heard"]) == hears


# What is looked at.


@pytest.mark.parametrize("rate_hz", [8, 24, 25, 30])
@pytest.mark.parametrize("seconds", [1.0, 2.0, 4.75, 5.0, 5.04, 7.0, 8.0])
def test_moments_are_those_of_ffmpegs_filter(rate_hz: int, seconds: float) -> None:
    frames = round(seconds * rate_hz)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=Fraction(1, rate_hz))
    filtered, sink = graph.add("fps", "fps=0.5"), graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()
    shown: list[int] = []
    for i in [*range(frames), None]:
        if i is None:
            source.push(None)
        else:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), i, dtype=np.uint8), format="gray")
            frame.pts, frame.time_base, frame.duration = i, Fraction(1, rate_hz), 1
            source.push(frame)
        while True:
            try:
                shown.append(int(sink.pull().to_ndarray()[0, 0]))
            except (av.error.BlockingIOError, av.error.EOFError):
                break
    assert moments(frames, float(rate_hz)) == shown


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (224, 224, [(0, 0)]),
        (224, 398, [(0, 0), (0, 87), (0, 174)]),
        (399, 224, [(0, 0), (88, 0), (175, 0)]),
        (224, 225, [(0, 0), (0, 1), (0, 1)]),
    ],
)
def test_squares_lie_at_the_ends_and_in_the_middle(height: int, width: int, expected: list[tuple[int, int]]) -> None:
    assert squares(height, width, 224) == expected


def mean_by_hand(net: ImageBind, frames: Tensor, pairs: list[tuple[int, int]], lefts: list[int]) -> Tensor:
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    found = []
    for first, second in pairs:
        for left in lefts:
            cut = frames[[first, second], :, left : left + 28].float()
            found.append(net.see((((cut / 255) - mean) / std).permute(3, 0, 1, 2)[None])[0])
    return torch.stack(found).mean(dim=0)


@pytest.mark.parametrize(
    ("rules", "first_s", "seconds", "pairs", "starts"),
    [
        ("fixed", 8.0, 2.0, [(0, 15)], [0]),
        ("fixed", 8.0, 5.0, [(0, 15), (12, 27), (24, 39)], [0, 24000, 48000]),
        ("official", 8.0, 8.0, [(7, 23), (23, 39), (39, 55)], [0, 32000, 64000]),
        ("official", 5.0, 5.0, [(7, 23)], [0, 16000, 32000]),
        # one frame too few: the last one again
        ("official", 8.0, 5.0, [(7, 23), (23, 39), (39, 39)], [0, 16000, 32000]),
        # the picture's first seconds, but all of the sound
        ("official", 4.0, 8.0, [(7, 23)], [0, 32000, 64000]),
    ],
)  # fmt: skip
def test_it_is_the_cosine_of_two_means(weights: Path, rules, first_s, seconds, pairs, starts) -> None:
    clip, found = film(seconds, size=(28, 41)), judge(weights, rules, first_s)
    net = found._network
    assert clip.video is not None and clip.audio is not None  # noqa: PT018
    seen = mean_by_hand(net, clip.video, pairs, [0, 7, 13])
    heard = torch.stack([
        net.hear(log_mel(clip.audio[start : start + 32000], 128, 204))[0] for start in starts
    ]).mean(dim=0)  # fmt: skip
    assert ib(found, clip) == pytest.approx(float(torch.cosine_similarity(seen, heard, dim=0)), abs=1e-6)


def test_batches_change_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = film(9, size=(28, 60))
    together = judge(weights).features(clip)
    monkeypatch.setattr(score, "AT_ONCE", 1)
    alone = judge(weights).features(clip)
    for one in ("seen", "heard"):
        np.testing.assert_allclose(together[one], alone[one], atol=1e-5)


def test_picture_and_sound_are_features_apart(weights: Path) -> None:
    found, one, other = judge(weights), film(3), film(3, seed=1)
    mixed = found.features(replace(one, audio=other.audio))
    assert mixed["seen"] == found.features(one)["seen"]
    assert mixed["heard"] == found.features(other)["heard"]
    first, second = found.features(one), found.features(other)
    assert found.score(first, second, ITEM) == found.score(mixed, mixed, ITEM) != found.score(first, first, ITEM)


# What has no number.


def test_what_cannot_be_judged_has_a_reason(weights: Path) -> None:
    clip = film(3)
    assert clip.video is not None and clip.audio is not None  # noqa: PT018
    silent = replace(clip, audio=torch.zeros_like(clip.audio))
    spoilt = replace(clip, audio=torch.full_like(clip.audio, torch.nan))
    fixed, official = judge(weights), judge(weights, "official", 4.0)
    assert ib(fixed, silent) == Unscored("the sound is silent")
    assert isinstance(ib(official, silent), float)
    assert ib(fixed, film(1.5)) == Unscored("the picture lasts 1.50 s, less than 2 s")
    assert ib(fixed, replace(film(1.5), video=clip.video)) == Unscored("the sound lasts 1.50 s, less than 2 s")
    assert isinstance(ib(official, film(1.5)), float)
    wants = "of its picture av-benchmark takes 2 frames, of the first 8 s it wants 4"
    assert ib(judge(weights, "official"), clip) == Unscored(wants)
    for one in (fixed, official):
        assert ib(one, spoilt) == Unscored("the sound has NaN or Inf")
        assert ib(one, replace(clip, audio=None)) == Unscored("no sound")
        assert ib(one, replace(clip, video=None)) == Unscored("no picture")
        # a still picture shows something, too
        assert isinstance(ib(one, replace(clip, video=clip.video[:1].expand(24, -1, -1, -1))), float)
