"""The ``mmaudio`` codec: the released code's numbers, clips of any length, and the sounds that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmaudio_kit import FIVE, GOLDEN, TEN, codec_of, folder, latents, loaded, waves
from safetensors.torch import load_file
from torch import Tensor

from ovikit.data.mel import log_mel
from ovikit.errors import UserError
from ovikit.networks.peak import PeakBytes
from ovikit.networks.protocols import Decoding
from ovikit.types import ClipSpec
from ovikit_ovi.audio.codec import MMAudioCodec
from ovikit_ovi.audio.component import VAE_FILE, VOCODER_FILE
from ovikit_ovi.audio.keymap import GENERATOR

Recorded = tuple[dict[str, dict[str, Tensor]], MMAudioCodec]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def codec(official: Path) -> MMAudioCodec:
    return loaded(official)


def close(ours: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    return float((ours - wanted).abs().max() / wanted.abs().max()) < tolerance


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The cases of the golden files, and a codec on official files with the weights of these."""
    root, cases = tmp_path_factory.mktemp("golden"), {}
    for name, path, within in (("mmaudio_vae", VAE_FILE, None), ("bigvgan", VOCODER_FILE, GENERATOR)):
        tensors = load_file(GOLDEN / f"{name}.safetensors")
        weights = {key.removeprefix("weights."): one for key, one in tensors.items() if key.startswith("weights.")}
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({within: weights} if within else weights, root / path)
        for key, one in tensors.items():
            if key.startswith("cases."):
                _, case, tensor = key.split(".")
                cases.setdefault(case, {})[tensor] = one
    return cases, loaded(root, hidden_channels=16, vocoder_channels=64)


def test_latents_decode_to_the_recorded_mel(recorded: Recorded) -> None:
    cases, codec = recorded
    assert close(codec.decode_mel(cases["decode"]["latent"]), cases["decode"]["mel"])


def test_a_decoded_sound_is_the_vocoded_mel(recorded: Recorded) -> None:
    cases, codec = recorded
    networks = codec.weights.networks
    (wave,) = networks.vocoder(cases["vocode"]["mel"], return_dict=False)
    assert close(wave, cases["vocode"]["waveform"])
    given = cases["decode"]["latent"]
    decoded = codec.for_clip(ClipSpec(given.shape[2] * 512 / 16000, 32, 32, 24.0, 16000)).decode(given)
    (wanted,) = networks.vocoder(cases["decode"]["mel"], return_dict=False)
    assert close(decoded, wanted[:, 0])


def test_encoding_takes_the_mean_of_the_log10_mel(recorded: Recorded) -> None:
    cases, codec = recorded
    mel = cases["encode"]["mel"]
    assert close(codec.weights.networks.autoencoder.encode(mel)[:, :20], cases["encode"]["mean"])
    golden = load_file(GOLDEN / "mel.safetensors")
    short = codec.for_clip(ClipSpec(8192 / 16000, 32, 32, 24.0, 16000))
    wanted = codec.weights.networks.autoencoder.encode(golden["cases.mel_16k.mel"])[:, :20]
    assert close(short.encode(golden["cases.mel_16k.waveform"]), wanted)


def test_the_mel_of_the_codec_is_the_librarys(codec: MMAudioCodec) -> None:
    sounds = waves(2, 15 * 512)
    wanted = codec.weights.networks.autoencoder.encode(log_mel(sounds))[:, :20]
    assert close(codec.encode(sounds), wanted)


@pytest.mark.parametrize(("clip", "steps", "found"), [(FIVE, None, 157), (FIVE, 157, 157), (TEN, 314, 314)])
def test_a_clip_has_as_many_latents_as_the_released_one(clip: ClipSpec, steps: int | None, found: int) -> None:
    codec = codec_of(None, clip, steps=steps)
    assert codec.shape() == (20, found)
    assert codec.grid().shape == (found, 1, 1)
    assert codec.grid().edges_s[-1] == pytest.approx(((found - 1) / 31.25, found / 31.25))


@pytest.mark.parametrize(("duration_s", "steps", "lasting"), [(0.46, 14, 7168), (0.5, 15, 7680), (0.5, 16, 8000)])
def test_decoded_sounds_are_cut_or_padded_to_the_clip(
    codec: MMAudioCodec, duration_s: float, steps: int, lasting: int
) -> None:
    codec = MMAudioCodec(ClipSpec(duration_s, 32, 32, 24.0, 16000), codec.weights, steps=steps)
    samples, given = codec.clip.samples, latents(2, steps)
    wave = codec.decode(given)
    assert wave.shape == (2, samples)
    (whole,) = codec.weights.networks.vocoder(codec.decode_mel(given), return_dict=False)
    assert close(wave[:, :lasting], whole[:, 0, :samples])
    assert not wave[:, lasting:].any()
    assert wave.abs().max() <= 1.0
    assert wave.std() > 1e-3


def test_items_of_a_batch_do_not_see_each_other(codec: MMAudioCodec) -> None:
    sounds, given = waves(3, 8000), latents(3, 15)
    assert torch.equal(codec.encode(sounds)[1:2], codec.encode(sounds[1:2]))
    assert torch.equal(codec.decode(given)[2:], codec.decode(given[2:]))


def test_progress_counts_the_items(codec: MMAudioCodec) -> None:
    told: list[tuple[int, int]] = []
    codec.decode(latents(3, 15), lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_encoding_reads_the_whole_latents_and_nothing_later(codec: MMAudioCodec) -> None:
    """Frames past the last latent are cut off; the window of the last one reaches 384 samples beyond it."""
    sounds = waves(1, 10000)
    later = sounds.clone()
    later[:, 15 * 512 + 384 :] = 0.9
    assert torch.equal(codec.encode(sounds), codec.encode(later))
    assert codec.encode(sounds).shape == (1, 20, 15)


def test_short_sounds_are_followed_by_silence(codec: MMAudioCodec) -> None:
    for samples in (0, 1, 300, 5000):
        short = waves(1, samples)
        padded = torch.nn.functional.pad(short, (0, 15 * 512 - samples))
        assert torch.equal(codec.encode(short), codec.encode(padded))


def test_silence_and_what_is_too_loud_have_latents(codec: MMAudioCodec) -> None:
    assert codec.encode(torch.zeros(1, 8000)).isfinite().all()
    loud = 5 * waves(1, 8000)
    assert torch.equal(codec.encode(loud), codec.encode(loud.clamp(-1, 1)))


def test_bfloat16_is_the_same_codec_but_for_rounding(codec: MMAudioCodec, official: Path) -> None:
    rounded = loaded(official, dtype="bfloat16")
    found, wanted = rounded.encode(waves(1, 8000)), codec.encode(waves(1, 8000))
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).square().mean().sqrt() / wanted.std() < 0.05
    mel, exact = rounded.decode_mel(latents(1, 15)), codec.decode_mel(latents(1, 15))
    assert 0 < (mel - exact).square().mean().sqrt() / exact.std() < 0.05
    assert next(rounded.weights.networks.vocoder.parameters()).dtype == torch.float32


def test_latents_can_be_trained_on(codec: MMAudioCodec) -> None:
    weight = torch.ones(20, requires_grad=True)
    (codec.encode(waves(1, 8000)) * weight[:, None]).sum().backward()
    assert weight.grad is not None


def test_a_fixed_number_of_latents_is_that_of_clips_that_last_as_long(official: Path) -> None:
    codec = codec_of(official, TEN, steps=314)
    assert codec.for_clip(ClipSpec(241 / 24, 64, 96, 24.0, 16000)).shape() == (20, 314)
    assert codec.for_clip(FIVE).shape() == (20, 157)


@pytest.mark.parametrize(
    ("clip", "steps", "message"),
    [
        (ClipSpec(0.5, 32, 32, 24.0, 44100), None, r"works at 16000 Hz and the clips are at 44100 Hz"),
        (ClipSpec(0.03, 32, 32, 24.0, 16000), None, r"0 latents"),
        (FIVE, 314, r"314 latents are 10\.048 s of sound and a clip is 5\.04167 s"),
    ],
)
def test_clips_that_it_cannot_hold_are_refused(clip: ClipSpec, steps: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        codec_of(None, clip, steps=steps)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(codec: MMAudioCodec, wrong: float) -> None:
    sound, given = waves(2, 8000), latents(2, 15)
    sound[1, 7], given[1, 3, 7] = wrong, wrong
    with pytest.raises(UserError, match="the sound holds NaN or infinity"):
        codec.encode(sound)
    with pytest.raises(UserError, match="latents hold NaN or infinity"):
        codec.decode(given)


def test_latents_of_other_clips_are_refused(codec: MMAudioCodec) -> None:
    with pytest.raises(ValueError, match=r"\(20, 14\) were given for clips of \(20, 15\)"):
        codec.decode(latents(1, 14))


def test_memory_is_known_without_weights(codec: MMAudioCodec) -> None:
    """What is counted of the architecture is what a real decoding allocates."""
    assert isinstance(codec, Decoding)
    with PeakBytes() as counted:
        codec.decode(latents(1, 15))
    assert codec_of(None).decode_bytes() == pytest.approx(counted.peak, rel=0.02)
    released = codec_of(None, TEN, hidden_channels=384, vocoder_channels=1536)
    assert 0.1e9 < released.decode_bytes() < 0.2e9
