"""Metrics of the signals against what can be computed by hand, and against the published signals of EBU Tech 3341."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ovikit.evaluation.protocols import Evaluator, PromptItem, Unscored
from ovikit.types import Clip
from ovikit_versebench.agreement import Agreement
from ovikit_versebench.picture import Motion, PictureSignal
from ovikit_versebench.sound import SoundSignal, bandwidth_hz, loudness_of

ITEM = PromptItem("0", "")
RATE = 48000


def seconds(length_s: float, rate: int = RATE) -> Tensor:
    return torch.arange(round(length_s * rate), dtype=torch.float64) / rate


def tone(level_db: float, length_s: float, rate: int = RATE, hz: float = 1000.0, phase: float = 0.0) -> Tensor:
    """A sine whose peak is ``level_db`` below full scale."""
    return (10 ** (level_db / 20) * torch.sin(2 * math.pi * hz * seconds(length_s, rate) + phase)).float()


def scores(judge: Evaluator, video: Tensor | None = None, audio: Tensor | None = None, **form: float) -> dict[str, Any]:
    clip = Clip("0", "", video, audio, form.get("frame_rate_hz", 24.0), int(form.get("sample_rate_hz", RATE)))
    found = judge.features(clip)
    return judge.score(found, found, ITEM)


def sound(audio: Tensor, rate: int = RATE) -> dict[str, Any]:
    return scores(SoundSignal(0.99, -50.0), audio=audio, sample_rate_hz=rate)


# Of stereo in the document; of its two equal channels one alone is 3.01 LU quieter.
EBU = {
    "1": [(-23.0, 20.0)],
    "2": [(-33.0, 20.0)],
    "3: below the relative gate": [(-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0)],
    "4: below both gates": [(-72.0, 10.0), (-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0), (-72.0, 10.0)],
}


@pytest.mark.parametrize("name", EBU)
def test_loudness_of_the_published_signals(name: str) -> None:
    whole = torch.cat([tone(level, length) for level, length in EBU[name]])
    expected = -33.0 if name == "2" else -23.0
    loudness, _ = loudness_of(whole, RATE)
    assert loudness == pytest.approx(expected - 10 * math.log10(2), abs=0.1)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000, 96000])
def test_loudness_does_not_depend_on_the_rate_and_follows_the_gain(rate: int) -> None:
    for level in (-40.0, -20.0, -6.0):
        loudness, _ = loudness_of(tone(level, 3.0, rate), rate)
        assert loudness == pytest.approx(level - 3.01, abs=0.15)


def test_the_true_peak_lies_between_samples() -> None:
    """EBU Tech 3341, cases 15 to 18: a quarter of the rate, sampled beside its peaks; +0.2 and -0.4 dB are allowed."""
    for phase, level in ((0.0, -6.0), (math.pi / 4, -6.0), (math.pi / 3, -6.0)):
        fade = (seconds(1.0) / 0.1).clamp_max(1) * ((1 - seconds(1.0)) / 0.1).clamp_max(1)
        found = tone(level, 1.0, hz=RATE / 4, phase=phase) * fade.float()  # a sudden start would ring
        assert -6.4 <= sound(found)["true_peak_dbtp"] <= -5.8
    assert float(tone(-6.0, 1.0, hz=RATE / 4, phase=math.pi / 4).abs().max()) < 10 ** (-8.9 / 20)


@pytest.mark.parametrize("gain", [1.0, 1.5, 3.0, 10.0])
def test_the_clipped_share_of_a_sine_is_known(gain: float) -> None:
    clipped = (gain * tone(0.0, 2.0, hz=997.0)).clamp(-1, 1)
    assert sound(clipped)["clipped_share"] == pytest.approx(1 - 2 / math.pi * math.asin(0.99 / gain), abs=2e-3)


def test_the_silent_share_is_the_share_of_silent_windows() -> None:
    for silent_s in (0.0, 0.5, 1.5):
        found = torch.cat([tone(-20.0, 2.0 - silent_s), tone(-80.0, silent_s)])
        assert sound(found)["silent_share"] == pytest.approx(silent_s / 2)


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95])
def test_bandwidth_is_where_noise_ends(rate: int, share: float) -> None:
    noise = torch.randn(2 * rate, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = torch.fft.rfft(noise)
    edge = share * rate / 2
    spectrum[torch.fft.rfftfreq(len(noise), 1 / rate) > edge] = 0
    found = bandwidth_hz(0.1 * torch.fft.irfft(spectrum, len(noise)).float(), rate)
    assert found == pytest.approx(edge, abs=6 * rate / 2048)


def test_sound_that_cannot_be_measured_has_a_reason() -> None:
    silent = sound(torch.zeros(RATE))
    assert silent["silent_share"] == 1.0
    assert silent["loudness_lufs"] == Unscored("the sound is silent, below -70 LUFS")
    assert silent["bandwidth_hz"] == Unscored("the sound is silent")
    assert silent["true_peak_dbtp"] == -120.0
    short = sound(tone(-20.0, 0.2))
    assert short["loudness_lufs"] == Unscored("the sound is shorter than 400 ms")
    assert short["true_peak_dbtp"] == pytest.approx(-20.0, abs=0.2)
    assert set(sound(torch.full((RATE,), torch.nan)).values()) == {Unscored("the sound has NaN or Inf")}


def pictures(levels: Tensor, height: int = 24, width: int = 32) -> Tensor:
    """Plain frames of these brightnesses, 0 to 255."""
    return levels.round().to(torch.uint8)[:, None, None, None].expand(-1, height, width, 3).contiguous()


def picture(video: Tensor) -> dict[str, Any]:
    return scores(PictureSignal(0.001, 0.06), video=video)


def test_brightness_contrast_and_flicker_are_what_was_drawn() -> None:
    found = picture(pictures(torch.tensor([102.0, 153.0] * 8)))
    assert found["brightness"] == pytest.approx(0.5, abs=1e-6)
    assert found["contrast"] == pytest.approx(0.0, abs=1e-6)
    assert found["flicker"] == pytest.approx(0.2, abs=1e-6)
    assert found["sharpness"] == Unscored("no frame shows anything")
    fading = picture(pictures(torch.linspace(0, 255, 16)))
    assert fading["flicker"] < 0.003  # a fade is no flicker
    halves = torch.zeros(4, 24, 32, 3, dtype=torch.uint8)
    halves[:, :, 16:] = 255
    assert picture(halves)["contrast"] == pytest.approx(0.5, abs=1e-6)


def test_frozen_and_black_frames_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    moving = torch.randint(40, 200, (12, 24, 32, 3), generator=generator, dtype=torch.uint8)
    assert picture(moving)["frozen_share"] == 0.0
    for held in (3, 6, 11):
        frozen = moving.clone()
        frozen[-held:] = frozen[-held - 1]
        assert picture(frozen)["frozen_share"] == pytest.approx(held / 11)
    dark = moving.clone()
    dark[:5] = 4
    assert picture(dark)["black_share"] == pytest.approx(5 / 12)


def blurred(video: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell = (bell / bell.sum())[None, None]
    x = F.pad(video.permute(0, 3, 1, 2).float().reshape(-1, 1, *video.shape[1:3]), (reach,) * 4, mode="reflect")
    x = F.conv2d(F.conv2d(x, bell[..., None, :]), bell[..., None])
    return x.view(len(video), 3, *video.shape[1:3]).permute(0, 2, 3, 1).round().to(torch.uint8)


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, height, width, 3) smooth spots."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (1, height, width, 1), generator=generator, dtype=torch.uint8)
    soft = blurred(noise.expand(-1, -1, -1, 3), 2.0).float()
    return ((soft - soft.min()) / (soft.max() - soft.min()) * 255).to(torch.uint8)


def test_sharpness_falls_with_blur_and_ignores_contrast() -> None:
    still = texture(96, 128).expand(3, -1, -1, -1)
    found = [picture(still)["sharpness"], *(picture(blurred(still, sigma))["sharpness"] for sigma in (1, 2, 4))]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] / 3
    paler = (still.float() / 2 + 60).round().to(torch.uint8)
    assert picture(paler)["sharpness"] == pytest.approx(found[0], rel=0.05)


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_motion_is_the_speed_of_what_moves(pixels: int) -> None:
    """A texture that is pushed to the side by so many pixels a frame."""
    wide = texture(96, 400)[0]
    video = torch.stack([wide[:, k * pixels : k * pixels + 128] for k in range(13)])
    found = scores(Motion(0.1), video=video)["motion_heights_per_s"]
    assert found == pytest.approx(pixels * 24 / 96, rel=0.15)
    assert scores(Motion(0.1), video=video[:1].expand(13, -1, -1, -1))["motion_heights_per_s"] < 0.01


def events(times: list[float], length_s: float = 4.0, rate: int = 16000) -> tuple[Tensor, Tensor]:
    """A square that jumps, and a click, at these moments."""
    frames = torch.zeros(round(length_s * 24), 32, 32, 3, dtype=torch.uint8)
    audio = torch.zeros(round(length_s * rate))
    for k, at in enumerate(times):
        frames[round(at * 24) :] = 0
        place = 4 + 8 * (k % 3)
        frames[round(at * 24) :, 8:24, place : place + 8] = 230
        start = round(at * rate)
        audio[start : start + 800] = 0.5 * torch.sin(2 * math.pi * 700 * seconds(0.05, rate)).float()
    return frames, audio


TIMES = [0.5, 0.875, 1.625, 2.5, 2.75, 3.375]


def agreement(video: Tensor, audio: Tensor) -> dict[str, Any]:
    return scores(Agreement(1.0, 0.6), video=video, audio=audio, sample_rate_hz=16000)


@pytest.mark.parametrize("late_ms", [-400, -120, -40, 0, 40, 120, 400, 800])
def test_the_offset_is_what_sound_was_moved_by(late_ms: int) -> None:
    video, audio = events(TIMES)
    found = agreement(video, torch.roll(audio, round(late_ms / 1000 * 16000)))
    assert found["av_late_ms"] == pytest.approx(late_ms, abs=25)
    assert found["av_offset_ms"] == abs(found["av_late_ms"])


def test_correlation_falls_with_the_offset_and_is_nothing_with_another_sound() -> None:
    video, audio = events(TIMES)
    found = [agreement(video, torch.roll(audio, round(ms * 16)))["av_correlation"] for ms in (0, 40, 80, 160)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.9
    assert found[-1] < 0.3
    random = np.random.default_rng(0)
    others = [events(sorted(random.uniform(0.2, 3.8, 6)))[1] for _ in range(12)]
    assert abs(np.mean([agreement(video, other)["av_correlation"] for other in others])) < 0.2


def test_what_does_not_go_together_has_no_offset() -> None:
    video, audio = events(TIMES)
    noise = 0.3 * torch.randn(len(audio), generator=torch.Generator().manual_seed(1))
    found = agreement(video, noise)
    assert isinstance(found["av_offset_ms"], Unscored)
    assert "go together at no offset" in found["av_offset_ms"].reason
    still = agreement(video[:1].expand(96, -1, -1, -1), audio)
    assert set(still.values()) == {Unscored("the picture does not move")}
