"""S3FD (Zhang et al., arXiv 1708.05237): faces in a picture, by six scales of a VGG-16. Names and shapes are those of
``sfd_face.pth``.

Read for them: joonson/syncnet_python (detectors/s3fd).

Shape legend: b pictures, a anchors, k boxes of (left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (4, 8, 16, 32, 64, 128)
ANCHORS = (16, 32, 64, 128, 256, 512)
"""Sides of the anchors of each scale, in pixels."""
VARIANCES = (0.1, 0.2)
MEAN = (123.0, 117.0, 104.0)
"""Of red, green and blue in the training data."""
CANDIDATE, CANDIDATES, OVERLAP, CLOSER_OVERLAP = 0.05, 5000, 0.3, 0.1
LEAST_PX = 32
"""Of the shorter side: of smaller pictures nothing is left after five halvings."""


class S3FD(nn.Module):
    """widths: channels of VGG's five stages, of its last two layers and of the two additional scales; tests make
    smaller ones."""

    def __init__(self, vgg: Sequence[int] = (64, 128, 256, 512, 512), last: int = 1024,
                 extra: tuple[tuple[int, int], tuple[int, int]] = ((256, 512), (128, 256))) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, (width, depth) in enumerate(zip(vgg, (2, 2, 3, 3, 3), strict=True)):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=stage == 2))
        layers += [nn.Conv2d(channels, last, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(last, last, 1), nn.ReLU()]
        self.vgg = nn.ModuleList(layers)
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = (Scaled(width) for width in vgg[2:])
        self.extras = nn.ModuleList()
        channels = last
        for narrow, wide in extra:
            self.extras += [nn.Conv2d(channels, narrow, 1), nn.Conv2d(narrow, wide, 3, 2, padding=1)]
            channels = wide
        sources = (*vgg[2:], last, *(wide for _, wide in extra))
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in sources)
        # The finest scale has three guesses of what is no face: small anchors are many.
        self.conf = nn.ModuleList(nn.Conv2d(w, 4 if i == 0 else 2, 3, padding=1) for i, w in enumerate(sources))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (b, a) and boxes (b, a, 4), in shares of the picture, from (b, 3, height, width): red first, in
        [0, 255], no side below ``LEAST_PX``."""
        probabilities, boxes = [], []
        sources = self._sources(pictures - torch.tensor(MEAN, device=pictures.device)[:, None, None])
        for scale, source in enumerate(sources):
            scores = self.conf[scale](source)
            scores = torch.stack((scores[:, :-1].amax(dim=1), scores[:, -1]), dim=-1)
            probabilities.append(scores.softmax(dim=-1)[..., 1].flatten(1))
            anchors = _anchors(scale, source, pictures)
            boxes.append(_decoded(rearrange(self.loc[scale](source), "b four y x -> b (y x) four"), anchors))
        return torch.cat(probabilities, dim=1), torch.cat(boxes, dim=1)

    def _sources(self, x: Tensor) -> list[Tensor]:
        found = []
        norms = {15: self.L2Norm3_3, 22: self.L2Norm4_3, 29: self.L2Norm5_3}
        for i, layer in enumerate(self.vgg):
            x = layer(x)
            if i in norms:
                found.append(norms[i](x))
        found.append(x)
        for narrow, wide in zip(self.extras[::2], self.extras[1::2], strict=True):
            x = F.relu(wide(F.relu(narrow(x))))
            found.append(x)
        return found


class Scaled(nn.Module):
    """Vectors of length one, each channel times a weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[:, None, None] * x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _anchors(scale: int, source: Tensor, pictures: Tensor) -> Tensor:
    """(a, 4) centre x, centre y, width, height, in shares of the picture."""
    (rows, columns), (height, width) = source.shape[-2:], pictures.shape[-2:]
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    side = torch.full_like(x, ANCHORS[scale])
    found = (x * STRIDES[scale] / width, y * STRIDES[scale] / height, side / width, side / height)
    return torch.stack(found, dim=-1).flatten(0, 1).to(source.device)


def _decoded(offsets: Tensor, anchors: Tensor) -> Tensor:
    centre = anchors[:, :2] + VARIANCES[0] * offsets[..., :2] * anchors[:, 2:]
    size = anchors[:, 2:] * (VARIANCES[1] * offsets[..., 2:]).exp()
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def faces(probabilities: Tensor, boxes: Tensor, least: float, size_px: tuple[int, int]) -> list[list[float]]:
    """Boxes in pixels, the most probable first, of one picture's anchors (a,) and (a, 4).

    least:   probability of a face that counts
    size_px: height and width of the picture that the boxes are shares of
    """
    near = (probabilities > CANDIDATE).nonzero()[:, 0]
    order = near[probabilities[near].argsort(descending=True, stable=True)][:CANDIDATES]
    kept = order[_apart(boxes[order], OVERLAP)]
    sure = kept[probabilities[kept] > least]
    height, width = size_px
    found = boxes[sure] * boxes.new_tensor([width, height, width, height])
    return found[_apart(found, CLOSER_OVERLAP)].double().tolist()


def _apart(boxes: Tensor, most: float) -> list[int]:
    """Which boxes (k, 4), from the first on, overlap no earlier one by more than ``most`` of what both cover."""
    corners = boxes.double().cpu()
    areas = (corners[:, 2:] - corners[:, :2]).prod(dim=1)
    kept: list[int] = []
    left = torch.arange(len(corners))
    while len(left):
        first, left = int(left[0]), left[1:]
        kept.append(first)
        shared = overlap_areas(corners[first], corners[left])
        left = left[shared / (areas[first] + areas[left] - shared) <= most]
    return kept


def overlap_areas(box: Tensor, others: Tensor) -> Tensor:
    """(k,) what a box (4,) and each of others (k, 4) both cover."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    return (high - low).clamp_min(0).prod(dim=1)
