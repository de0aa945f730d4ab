"""Small networks of synchrony, their weights under the published names, and clips that tell the time."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ovikit.types import Clip
from ovikit_versebench.sync import lips, offsets
from ovikit_versebench.sync.s3fd import S3FD
from ovikit_versebench.sync.synchformer import Synchformer, SynchformerSize
from ovikit_versebench.sync.syncnet import SyncNet

SMALL = SynchformerSize(width=16, depth=1, heads=2, image_px=32, sync_depth=1, sync_heads=2)
small_synchformer = partial(Synchformer, SMALL)
small_syncnet = partial(SyncNet, (4, 6), (4, 5, 6), 8, 12)
small_s3fd = partial(S3FD, (4, 4, 4, 4, 4), 8, ((4, 8), (4, 8)))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights and statistics, for use alone."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        value.normal_(0, 0.2, generator=generator)
        if name.endswith("running_var"):
            value.abs_().add_(0.5)
    return network.eval()


def sees_faces_everywhere(detector: S3FD) -> S3FD:
    """A detector that is sure of a face in every place, of 64 pixels of the picture that it is given."""
    with torch.no_grad():
        for scale, (scores, places) in enumerate(zip(detector.conf, detector.loc, strict=True)):
            for one in (scores, places):
                one.weight.zero_()
                one.bias.zero_()
            scores.bias[-1] = 8.0 if scale == 2 else -8.0
    return detector


def write_small_weights(folder: Path) -> None:
    torch.save(randomised(small_synchformer()).state_dict(), folder / "synchformer_state_dict.pth")
    state = randomised(small_syncnet(), 1).state_dict()
    # as the published file, which is from before PyTorch 0.4
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, folder / "syncnet_v2.model")
    torch.save(sees_faces_everywhere(randomised(small_s3fd(), 2)).state_dict(), folder / "sfd_face.pth")


def use_small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "Synchformer", small_synchformer)
    monkeypatch.setattr(lips, "SyncNet", small_syncnet)
    monkeypatch.setattr(lips, "S3FD", small_s3fd)


RISE_PER_S = 0.7
"""Of the logarithm of a tone's amplitude in ``telling_clip``."""
BRIGHTEST_S = 12.0


def telling_clip(
    seconds: float, late_s: float = 0.0, rate_hz: float = 25.0, sound_hz: int = 16000, size: tuple[int, int] = (32, 32)
) -> Clip:  # fmt: skip
    """A clip whose brightness and whose loudness tell the time, the sound ``late_s`` late."""
    times = torch.arange(round(seconds * rate_hz)) / rate_hz
    grey = (20 + 215 * times / BRIGHTEST_S).round().to(torch.uint8)
    video = grey[:, None, None, None].expand(-1, *size, 3).contiguous()
    moments = torch.arange(round(seconds * sound_hz), dtype=torch.float64) / sound_hz
    tone = 2e-4 * torch.exp(RISE_PER_S * (moments - late_s)) * torch.sin(2 * math.pi * 1000 * moments)
    return Clip("telling", "", video, tone.float(), rate_hz, sound_hz)


class Clock:
    """In place of Synchformer: reads the time from brightness and loudness, and tells by how much they are apart."""

    size = SMALL

    def see(self, frames: Tensor) -> Tensor:
        shown = (frames.mean(dim=(2, 3, 4)) * 0.5 + 0.5) * 255
        times = (shown - 20) / 215 * BRIGHTEST_S
        return times.view(len(frames), 8, 2).mean(dim=2)[..., None] + 0.02  # the middle of two frames

    def hear(self, spectra: Tensor) -> Tensor:
        loudness = (spectra * 2 * 4.5689974 - 4.2677393)[..., 3:62].amax(dim=1).mean(dim=-1)
        middle = loudness / (2 * RISE_PER_S) - self.zero
        return middle[:, None, None].expand(-1, 6, 1)

    zero = 0.0

    def compare(self, seen: Tensor, heard: Tensor) -> Tensor:
        ahead = heard.mean(dim=(1, 2, 3)) - seen.mean(dim=(1, 2, 3))
        return -(torch.linspace(-2, 2, 21) - ahead[:, None]).abs()
