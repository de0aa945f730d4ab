"""The toy world's codecs and conditioner: what survives them, and where in time it lies."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovikit.data.mel import log_mel, waveform_of
from ovikit.types import Clip, ClipSpec
from ovikit_toyworld.block_dct import BlockDct
from ovikit_toyworld.conditioner import HashedWords
from ovikit_toyworld.detect import audio_onsets, pitch_of, visual_onsets
from ovikit_toyworld.mel_dct import MelDct
from ovikit_toyworld.transforms import dct_matrix
from ovikit_toyworld.world import ToyWorld

CLIP = ClipSpec(duration_s=2.0, height_px=64, width_px=64, frame_rate_hz=24.0, sample_rate_hz=16000)
GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "mel.safetensors"
COUNT = 16


@cache
def clips() -> tuple[Clip, ...]:
    world = ToyWorld(CLIP, COUNT, seed=21)
    return tuple(world[i] for i in range(COUNT))


def pixels() -> Tensor:
    return torch.stack([clip.video for clip in clips()]).float() / 127.5 - 1.0


def waves() -> Tensor:
    return torch.stack([clip.audio for clip in clips()])


def video_codec(channels: int = 96, block_px: int = 64) -> BlockDct:
    return BlockDct(CLIP, channels=channels, block_px=block_px, frames=4, emphasis=0.0)


def audio_codec(channels: int = 16) -> MelDct:
    return MelDct(CLIP, channels=channels, floor=-3.0, emphasis=0.0, iterations=32)


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(4.0 / float((a - b).square().mean()))


def test_the_mel_is_the_released_codes() -> None:
    golden = load_file(GOLDEN)
    wanted = golden["cases.mel_16k.mel"]
    error = (log_mel(golden["cases.mel_16k.waveform"]) - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-5


def test_the_cosine_transform_is_orthonormal() -> None:
    whole = dct_matrix(64, 64)
    torch.testing.assert_close(whole @ whole.T, torch.eye(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(dct_matrix(64, 16), whole[:16])


@pytest.mark.parametrize(("block_px", "channels", "least_db"), [(64, 96, 26.0), (64, 256, 29.5), (32, 64, 28.5)])
def test_pictures_survive_the_video_codec(block_px: int, channels: int, least_db: float) -> None:
    codec = video_codec(channels, block_px)
    latents = codec.encode(pixels())
    assert latents.shape[1:] == codec.shape()
    assert psnr(codec.decode(latents), pixels()) > least_db


@pytest.mark.parametrize("codec", [video_codec(), audio_codec()], ids=["video", "audio"])
def test_latents_have_unit_variance_over_the_world(codec: BlockDct | MelDct) -> None:
    latents = codec.encode(pixels() if codec.modality == "video" else waves())
    assert 0.8 < latents.std() < 1.2
    assert latents.mean().abs() < 0.1


@pytest.mark.parametrize("codec", [video_codec(), audio_codec()], ids=["video", "audio"])
def test_what_a_codec_keeps_it_keeps_for_good(codec: BlockDct | MelDct) -> None:
    """Encoding is a projection: latents of small pictures that were decoded from latents are the same latents."""
    samples = 0.3 * pixels() if codec.modality == "video" else waves()
    latents = codec.encode(samples)
    if codec.modality == "video":
        torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=2e-2, rtol=0)
    else:
        mel = codec.decode_mel(latents)
        wanted = log_mel(samples)[..., : mel.shape[-1]].clamp(min=-3.0)
        assert (mel - wanted).abs().mean() < 0.12


def test_emphasis_changes_weights_and_not_pictures() -> None:
    plain, weighted = (BlockDct(CLIP, channels=64, block_px=64, frames=4, emphasis=e) for e in (0.0, 0.5))
    torch.testing.assert_close(plain.decode(plain.encode(pixels())), weighted.decode(weighted.encode(pixels())))
    spread = weighted.encode(pixels()).std(dim=(0, 2, 3, 4))
    assert spread[:8].mean() > 1.5 * spread[-8:].mean()
    assert plain.fingerprint() != weighted.fingerprint()


def test_griffin_lim_gives_sound_the_mel_back_and_always_the_same() -> None:
    mel = log_mel(waves()[:4])[..., :124]
    wave = waveform_of(mel, CLIP.samples)
    assert wave.shape == (4, CLIP.samples)
    assert torch.equal(wave, waveform_of(mel, CLIP.samples))
    assert (log_mel(wave)[..., :124].clamp(min=-3.0) - mel.clamp(min=-3.0)).abs().mean() < 0.05


def test_grids_tell_when_a_latent_is() -> None:
    video, audio = video_codec().grid(), audio_codec().grid()
    assert video.shape == (12, 1, 1)
    assert audio.shape == (62, 1, 1)
    assert video.edges_s[-1] == pytest.approx((11 / 6, 2.0))
    assert audio.edges_s[-1] == pytest.approx((61 * 0.032, 62 * 0.032))


@pytest.mark.parametrize("index", range(4))
def test_an_event_changes_the_latents_from_its_own_time_on(index: int) -> None:
    """Taking the events away leaves the latents before the first one as they are and changes those from it on."""
    clip, first = clips()[index], clips()[index].truth["event_times_s"][0]
    frame, sample = round(first * 24), round(first * 16000)
    still, mute = clip.video.clone(), clip.audio.clone()
    still[frame:], mute[sample:] = still[frame - 1], 0.0
    for codec, with_event, without in (
        (video_codec(), clip.video.float() / 127.5 - 1.0, still.float() / 127.5 - 1.0),
        (audio_codec(), clip.audio, mute),
    ):
        change = (codec.encode(with_event[None]) - codec.encode(without[None]))[0]
        moved = change.square().sum(0).flatten()  # one row and one column
        starts, ends = zip(*codec.grid().edges_s, strict=True)
        before = torch.tensor(ends) <= first - 0.04  # the mel's window reaches 32 ms to either side
        reached = next(i for i, end in enumerate(ends) if end > first + 0.03)
        assert moved[before].max() < 1e-6
        assert moved[reached] > 1.0
        assert starts[reached] < first + 0.03


def test_events_and_pitch_survive_both_codecs() -> None:
    pictures = (video_codec().decode(video_codec().encode(pixels())) + 1.0) * 127.5
    sounds = audio_codec().decode(audio_codec().encode(waves())).numpy().astype(np.float64)
    for clip, picture, sound in zip(clips(), pictures.round().to(torch.uint8).numpy(), sounds, strict=True):
        truth = clip.truth["event_times_s"]
        heard = audio_onsets(sound, 16000)
        assert visual_onsets(picture, 24.0) == pytest.approx(truth, abs=0.02)
        assert heard == pytest.approx(truth, abs=0.05)
        found = pitch_of(sound, 16000, heard)
        assert found is not None
        assert found[0] == pytest.approx(clip.truth["pitch_hz"], rel=0.1)


def test_wrong_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="height of 48"):
        BlockDct(ClipSpec(2.0, 48, 64, 24.0, 16000), channels=8, block_px=32, frames=4, emphasis=0.0)
    with pytest.raises(ValueError, match="8000"):
        MelDct(ClipSpec(2.0, 64, 64, 24.0, 8000), channels=8, floor=-3.0, emphasis=0.0, iterations=1)
    with pytest.raises(ValueError, match="up to 256"):
        video_codec(channels=300)


def test_a_word_has_the_same_vector_in_every_prompt_and_process() -> None:
    conditioner = HashedWords(width=32, length=24, seed=0)
    text = conditioner.encode(["A red ball.", "a RED ball", "blue", ""])
    assert text.tokens.shape == (4, 3, 32)
    assert text.lengths.tolist() == [3, 3, 1, 1]
    assert torch.equal(text.tokens[0], text.tokens[1])
    assert text.tokens[2, 1:].abs().max() == 0.0
    assert not torch.equal(text.tokens[2, 0], text.tokens[3, 0])
    assert float(text.tokens[0, 1, 0]) == pytest.approx(WORD_RED, abs=1e-6)
    assert conditioner.fingerprint() != HashedWords(width=32, length=24, seed=1).fingerprint()


WORD_RED = 0.9356593
"""First channel of "red" in second place: pinned, because trained weights depend on it."""


def test_word_order_is_told_and_long_prompts_are_cut() -> None:
    conditioner = HashedWords(width=32, length=4, seed=0)
    swapped = conditioner.encode(["red ball", "ball red"]).tokens
    assert (swapped[0, 0] - swapped[1, 1]).abs().max() > 0.05
    assert conditioner.encode(["one two three four five six"]).tokens.shape[1] == 4


def test_a_fingerprint_tells_apart_what_is_decoded_differently() -> None:
    """Ground-truth clips are kept by it: they must be made again when Griffin-Lim runs longer."""
    few, many = (MelDct(CLIP, channels=16, floor=-3.0, emphasis=0.0, iterations=n) for n in (4, 32))
    assert few.fingerprint() != many.fingerprint()
