"""The offset between lips and sound by SyncNet (Chung and Zisserman 2016), as its published code measures it.

That code follows faces and looks at a square around each; here the square in the middle of the picture is looked at,
so that clips have to show one face there.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.checkpoints.state import read_state
from ovikit.data.filters import Verdict
from ovikit.errors import UserError, listed
from ovikit.types import Clip
from ovikit_filters.mfcc import RATE_HZ, mfcc

FRAME_RATE_HZ = 25
SIDE_PX = 224
SEEN, HEARD = 5, 20
"""Frames, and steps of 10 ms of sound, of a window: 0.2 s."""
SHIFTS = 15
"""Offsets are looked for up to so many frames to either side."""
AT_ONCE = 20


class SyncNet(nn.Module):
    """Windows of picture and sound to vectors that are near where the two belong together. Names are the published
    weights'."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64), nn.MaxPool2d(1, 1), *_conv2d(64, 192), nn.MaxPool2d(3, (1, 2)), *_conv2d(192, 384),
            *_conv2d(384, 256), *_conv2d(256, 256), nn.MaxPool2d(3, 2), *_conv2d(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (5, 7, 7), 2, 0), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(96, 256, (1, 5, 5), 2, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3), 1, 1), *_conv3d(256, 256, (1, 3, 3), 1, 1),
            *_conv3d(256, 256, (1, 3, 3), 1, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(256, 512, (1, 6, 6), 1, 0),
        )  # fmt: skip

    def lips(self, pictures: Tensor) -> Tensor:
        """(b, 1024) of (b, 3, 5, 224, 224): blue, green and red, 0 to 255."""
        return self.netfclip(self.netcnnlip(pictures).flatten(1))

    def sound(self, coefficients: Tensor) -> Tensor:
        """(b, 1024) of (b, 1, 13, 20)."""
        return self.netfcaud(self.netcnnaud(coefficients).flatten(1))


def _conv2d(into: int, out: int, kernel: tuple[int, int] = (3, 3), padding: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(into, out, kernel, padding=padding), nn.BatchNorm2d(out), nn.ReLU(inplace=True)


def _conv3d(into: int, out: int, kernel: tuple[int, int, int], step: int, padding: int) -> tuple[nn.Module, ...]:
    around = (0, padding, padding)
    return nn.Conv3d(into, out, kernel, (1, step, step), around), nn.BatchNorm3d(out), nn.ReLU(inplace=True)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


def offset_of(seen: Tensor, heard: Tensor, shifts: int = SHIFTS) -> tuple[int, float]:
    """(offset in frames, confidence) of the vectors of n windows each: the shift of the sound at which the mean
    distance is least, and by how much it lies below the median. Positive: the sound is late."""
    padded = F.pad(heard, (0, 0, shifts, shifts))
    windows = padded.unfold(0, 2 * shifts + 1, 1).transpose(1, 2)  # (n, shifts, 1024)
    distance = F.pairwise_distance(seen[:, None], windows).mean(dim=0)
    least, place = distance.min(dim=0)
    return shifts - int(place), float(distance.median() - least)


class Sync:
    """Leaves out clips whose offset is above ``most_offset`` frames of 40 ms, or whose confidence is below
    ``least_confidence``."""

    def __init__(self, assets: Assets, model: str, most_offset: int, least_confidence: float) -> None:
        self.model, self.most_offset, self.least_confidence = model, most_offset, least_confidence
        self._path = assets.path(model)
        self._digest = assets.digest_of(self._path)

    @cached_property
    def _network(self) -> SyncNet:
        with torch.device("meta"):
            network = SyncNet()
        tensors, _ = read_state(self._path)
        wanted = network.state_dict()
        wrong = [name for name, one in wanted.items() if name not in tensors or tensors[name].shape != one.shape]
        if wrong:
            raise UserError(f"these are not the weights of SyncNet: {listed(wrong, 4)} missing or of another shape",
                            str(self._path))  # fmt: skip
        network.load_state_dict({name: tensors[name].clone() for name in wanted}, assign=True)
        return network.eval()

    @torch.no_grad()
    def judge(self, clip: Clip) -> Verdict:
        if clip.video is None or clip.audio is None:
            return Verdict(why="it has not both picture and sound")
        pictures, coefficients = _pictures(clip), _coefficients(clip)
        count = min(len(pictures) - SEEN, (coefficients.shape[-1] - HEARD) // 4) + 1
        if count < 2:
            return Verdict(why="it is too short to measure an offset")
        seen, heard = [], []
        for first in range(0, count, AT_ONCE):
            places = range(first, min(count, first + AT_ONCE))
            seen.append(self._network.lips(torch.stack([pictures[k : k + SEEN].transpose(0, 1) for k in places])))
            heard.append(
                self._network.sound(torch.stack([coefficients[None, :, 4 * k : 4 * k + HEARD] for k in places]))
            )
        offset, confidence = offset_of(torch.cat(seen), torch.cat(heard))
        scores = {"sync_offset_ms": offset * 1000.0 / FRAME_RATE_HZ, "sync_confidence": round(confidence, 4)}
        why = None
        if abs(offset) > self.most_offset:
            why = f"its sound is {scores['sync_offset_ms']:+.0f} ms off, more than {self.most_offset} frames of 40 ms"
        elif confidence < self.least_confidence:
            why = f"the confidence of its offset is {confidence:.2f}, below {self.least_confidence:g}"
        return Verdict(scores, why)

    def fingerprint(self) -> str:
        return f"sync/1/{self._digest}/{self.most_offset}/{self.least_confidence}"


def _pictures(clip: Clip) -> Tensor:
    """(frames, 3, 224, 224) at 25 Hz: the frame on screen in the middle of each."""
    assert clip.video is not None
    count = round(len(clip.video) / clip.frame_rate_hz * FRAME_RATE_HZ)
    at = ((torch.arange(count) + 0.5) / FRAME_RATE_HZ * clip.frame_rate_hz).long().clamp_max(len(clip.video) - 1)
    _, height, width, _ = clip.video.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = clip.video[at, top : top + side, left : left + side].flip(-1).permute(0, 3, 1, 2).float()
    return F.interpolate(square, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)


def _coefficients(clip: Clip) -> Tensor:
    """(13, steps of 10 ms)."""
    assert clip.audio is not None
    samples = clip.audio.double()
    if clip.sample_rate_hz != RATE_HZ:
        count = round(len(samples) * RATE_HZ / clip.sample_rate_hz)
        samples = F.interpolate(samples[None, None], count, mode="linear")[0, 0]
    return torch.from_numpy(mfcc((samples * 32767).round().numpy().astype(np.float64)).T.copy()).float()
