"""The mel filters and spectra of the evaluators' networks, against transformers and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovikit_versebench import mel

RATE_HZ = 16000


@pytest.mark.parametrize(
    ("ours", "form", "theirs"),
    [
        (mel.slaney_filters, (16000, 512, 64, 50.0, 8000.0), {"norm": "slaney", "mel_scale": "slaney"}),
        (mel.slaney_filters, (32000, 1024, 64, 50.0, 14000.0), {"norm": "slaney", "mel_scale": "slaney"}),
        (mel.htk_filters, (48000, 1024, 64, 50.0, 14000.0), {"norm": None, "mel_scale": "htk"}),
        (
            mel.kaldi_filters, (32000, 1024, 128, 0.0, 15000.0),
            {"norm": None, "mel_scale": "kaldi", "triangularize_in_mel_space": True},
        ),
    ],
)  # fmt: skip
def test_mel_filters_are_those_of_transformers(ours, form, theirs) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    rate, window, count, low, high = form
    expected = audio_utils.mel_filter_bank(window // 2 + 1, count, low, high, rate, **theirs)
    np.testing.assert_allclose(ours(*form).numpy(), expected, atol=1e-9)


def sounds(count: int, samples: int) -> torch.Tensor:
    return torch.randn(count, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.mark.parametrize(("bell", "theirs"), [("hann", "hann"), ("hamming", "hamming")])
@pytest.mark.parametrize("count", [80, 128])
def test_kaldis_spectrum_is_that_of_transformers(bell, theirs: str, count: int) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    sound = sounds(1, 4000)
    expected = audio_utils.spectrogram(
        sound[0].numpy(),
        audio_utils.window_function(400, theirs, periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=mel.kaldi_filters(RATE_HZ, 512, count, 20.0, 8000.0).numpy(),
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )
    found = mel.kaldi_log_mel(sound, RATE_HZ, count, bell)
    assert found.shape == (1, 1 + (4000 - 400) // 160, count)
    np.testing.assert_allclose(found[0].numpy(), expected.T, atol=2e-4)


def test_kaldis_spectrum_hears_no_constant_and_no_level_but_its_logarithm() -> None:
    sound = sounds(2, 2000)
    found = mel.kaldi_log_mel(sound, RATE_HZ, 40)
    torch.testing.assert_close(mel.kaldi_log_mel(sound + 5.0, RATE_HZ, 40), found)
    torch.testing.assert_close(mel.kaldi_log_mel(10 * sound, RATE_HZ, 40), found + 2 * np.log(10))
    torch.testing.assert_close(mel.kaldi_log_mel(sound[1:], RATE_HZ, 40), found[1:])


def test_kaldis_spectrum_has_whole_windows_only() -> None:
    assert [mel.kaldi_log_mel(sounds(1, n), RATE_HZ, 8).shape[1] for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]
