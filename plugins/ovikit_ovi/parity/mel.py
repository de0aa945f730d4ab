"""Replays of ``mel``: waveforms at 16 kHz to log10-mels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ovikit.data.mel import log_mel
from ovikit_ovi.parity.golden import Golden


@torch.no_grad()
def replay(golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """(case, tensor, ours, recorded) of every mel in the file."""
    for case in golden.recorded_cases():
        recorded = golden.need(case, "mel")
        yield case, "mel", log_mel(golden.need(case, "waveform").to(dtype), recorded.shape[-2]), recorded
