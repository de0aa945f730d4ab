"""SyncNet (Chung and Zisserman, "Out of time", 2016): embeddings of 0.2 s of a mouth and of a sound, near each other
where they belong together. Names and shapes are those of ``syncnet_v2.model``.

Read for them: joonson/syncnet_python (SyncNetModel.py, SyncNetInstance.py).

Shape legend: n windows of 5 frames or of 20 cepstral vectors, one for each frame; e embedding (1024).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

WINDOW_FRAMES = 5
STEPS_PER_FRAME = 4
"""Cepstral vectors, of 10 ms each."""
FACE_PX = 224
SHIFT = 15
"""Frames of offset to either side that are tried."""
CHUNK = 20


class SyncNet(nn.Module):
    """widths: channels of the picture's first layer and of all that follow, of the sound's first three layers, of the
    hidden layers, and of the embedding; tests make smaller ones."""

    def __init__(self, lip: tuple[int, int] = (96, 256), ear: tuple[int, int, int] = (64, 192, 384),
                 hidden: int = 512, out: int = 1024) -> None:  # fmt: skip
        super().__init__()
        first, more = lip
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, first, (WINDOW_FRAMES, 7, 7), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(first, more, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *chain.from_iterable(_conv3d(more, more, (1, 3, 3), padding=(0, 1, 1)) for _ in range(3)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(more, hidden, (1, 6, 6)),
        )
        low, middle, high = ear
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, low, (3, 3), 1),
            nn.Identity(),  # a pooling over single values in the published code
            *_conv2d(low, middle, (3, 3), 1),
            nn.MaxPool2d((3, 3), (1, 2)),
            *_conv2d(middle, high, (3, 3), 1),
            *_conv2d(high, more, (3, 3), 1),
            *_conv2d(more, more, (3, 3), 1),
            nn.MaxPool2d((3, 3), (2, 2)),
            *_conv2d(more, hidden, (5, 4)),
        )
        self.netfclip, self.netfcaud = _head(hidden, out), _head(hidden, out)

    def see(self, faces: Tensor) -> Tensor:
        """(n, e) from n + 4 faces (n + 4, 3, 224, 224), blue first, in [0, 255]."""
        found = []
        for start in range(0, len(faces) - WINDOW_FRAMES + 1, CHUNK):
            seen = faces[start : start + CHUNK + WINDOW_FRAMES - 1].transpose(0, 1)[None]
            # The first layer alone looks at several frames: all windows of a stretch come out of one pass over it.
            found.append(self.netfclip(self.netcnnlip(seen)[0, :, :, 0, 0].T))
        return torch.cat(found)

    def hear(self, cepstra: Tensor) -> Tensor:
        """(n, e) from cepstral vectors (4 (n + 4), 13) or up to 3 more."""
        windows = cepstra.unfold(0, WINDOW_FRAMES * STEPS_PER_FRAME, STEPS_PER_FRAME)
        return torch.cat([self.netfcaud(self.netcnnaud(part[:, None]).flatten(1)) for part in windows.split(CHUNK)])


def _conv3d(
    channels: int, out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> tuple[nn.Module, ...]:  # fmt: skip
    return nn.Conv3d(channels, out, kernel, stride, padding), nn.BatchNorm3d(out), nn.ReLU()


def _conv2d(channels: int, out: int, kernel: tuple[int, int], padding: int = 0) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, kernel, padding=padding), nn.BatchNorm2d(out), nn.ReLU()


def _head(hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, out))


def with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the counters of batches that files from before PyTorch 0.4 lack; inference does not read them."""
    counters = {
        f"{name.removesuffix('running_mean')}num_batches_tracked": torch.zeros((), dtype=torch.long)
        for name in state
        if name.endswith("running_mean")
    }
    return {**counters, **state}


def distances(seen: Tensor, heard: Tensor, shift: int = SHIFT) -> Tensor:
    """(2 shift + 1,) mean distances of seen (n, e) from heard (n, e) that is moved by -shift to shift windows.

    Beyond the ends of the sound there are zeros, as in the published code; the smallest at place i means that the sound
    belonging to a window comes i - shift windows after it.
    """
    padded = nn.functional.pad(heard, (0, 0, shift, shift))
    moved = [padded[i : i + len(seen)] for i in range(2 * shift + 1)]
    return torch.stack([nn.functional.pairwise_distance(seen, one).mean() for one in moved])


def confidence_and_distance(seen: Tensor, heard: Tensor) -> tuple[float, float]:
    """SyncNet's confidence (the median of the distances less the smallest) and its smallest distance."""
    found = distances(seen, heard)
    least = float(found.min())
    return float(found.median()) - least, least
