"""The log-mel spectrogram: the released code's numbers, in both precisions, and what the scale promises."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovikit.data.mel import BANDS, RATE_HZ, SILENCE, filterbank, hertz_to_mel, log_mel, mel_to_hertz, waveform_of

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "mel.safetensors"


def tone(hertz: float, samples: int = 4096) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz / RATE_HZ * torch.arange(samples))[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_mel_is_the_released_codes(dtype: torch.dtype) -> None:
    golden = load_file(GOLDEN)
    wanted = golden["cases.mel_16k.mel"]
    made = log_mel(golden["cases.mel_16k.waveform"].to(dtype))
    assert made.dtype == dtype
    assert (made - wanted).abs().max() / wanted.abs().max() < 1e-5


def test_the_scales_undo_each_other() -> None:
    hertz = torch.linspace(0.0, 8000.0, 400, dtype=torch.float64)
    torch.testing.assert_close(mel_to_hertz(hertz_to_mel(hertz)), hertz)


@pytest.mark.parametrize("bands", [20, BANDS])
def test_every_band_has_area_one(bands: int) -> None:
    """Slaney's normalisation: white noise is as loud in every band, but for how finely the transform samples it."""
    areas = filterbank(bands).double().sum(1) * RATE_HZ / 1024
    assert areas.mean() == pytest.approx(1.0, abs=0.02)


def test_a_tone_is_loudest_in_its_band() -> None:
    edges = mel_to_hertz(torch.linspace(0.0, float(hertz_to_mel(torch.tensor(8000.0))), BANDS + 2))
    for band in (10, 40, 70):
        loud = log_mel(tone(float(edges[band + 1])))[0].mean(-1)
        assert int(loud.argmax()) == band


def test_silence_what_is_too_loud_and_the_number_of_frames() -> None:
    torch.testing.assert_close(log_mel(torch.zeros(1, 1024)).max(), torch.tensor(SILENCE), atol=0.6, rtol=0)
    loud = 3 * tone(440.0)
    assert torch.equal(log_mel(loud), log_mel(loud.clamp(-1.0, 1.0)))
    assert [log_mel(torch.zeros(1, n)).shape[-1] for n in (512, 767, 768)] == [2, 2, 3]


def test_a_sound_comes_back_from_its_mel_the_same_every_time() -> None:
    swelling = torch.cat([tone(440.0, 8000), tone(1500.0, 8000)]) * torch.hann_window(8000)
    mel = log_mel(swelling)
    wave = waveform_of(mel, 8000)
    assert torch.equal(wave, waveform_of(mel, 8000))
    assert wave.shape == (2, 8000)
    assert (log_mel(wave).clamp(min=-3.0) - mel.clamp(min=-3.0)).abs().mean() < 0.1
