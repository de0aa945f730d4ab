"""RAFT (Teed and Deng, arXiv 2003.12039): optical flow by looking up, again and again, how alike places of two pictures
are. Names and shapes are those of ``raft-things.pth``, without the ``module.`` that they begin with there.

Read for them: princeton-vl/RAFT (core/raft.py, extractor.py, corr.py, update.py and utils/utils.py).

Memory: how alike all places of a pair are is held at once, n times n numbers and a third more for the pyramid, where n
is the number of blocks of 8 by 8 pixels: 218 MB of a pair of 640 by 640 pixels. Whoever calls it keeps frames small.

Shape legend: b pairs of pictures, c channels, h and w rows and columns of blocks (an eighth of the picture's), n blocks
(h w).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK_PX = 8
LEVELS, RADIUS = 4, 4
LEAST_PX = BLOCK_PX * 2 ** (LEVELS - 1)
"""Of either side: of smaller pictures nothing is left at the last level of the pyramid."""
LOOKUPS = LEVELS * (2 * RADIUS + 1) ** 2
NEIGHBOURS = 9
MASK_SCALE = 0.25
"""Of the weights of the upsampling: the published network was trained with it."""


@dataclass(frozen=True, slots=True)
class RaftSize:
    """The published network's channels; tests make fewer.

    stages: of an encoder's stem and first stage, second and third stage
    alike, moved: of what is made of lookups and of the flow
    """

    stages: tuple[int, int, int] = (64, 96, 128)
    features: int = 256
    hidden: int = 128
    context: int = 128
    alike: tuple[int, int] = (256, 192)
    moved: tuple[int, int] = (128, 64)
    motion: int = 128
    head: int = 256


class Raft(nn.Module):
    """Flow from one picture to the next, in pixels."""

    def __init__(self, size: RaftSize = RaftSize()) -> None:
        super().__init__()
        self.hidden = size.hidden
        self.fnet = Encoder(size.stages, size.features, nn.InstanceNorm2d)
        self.cnet = Encoder(size.stages, size.hidden + size.context, nn.BatchNorm2d)
        self.update_block = Update(size)

    def forward(self, first: Tensor, second: Tensor, iterations: int = 20) -> Tensor:
        """(b, 2, height, width): to the right and down, from pictures (b, 3, height, width) in [0, 255], red first, of
        which each side is a multiple of 8 and ``LEAST_PX`` at least."""
        first, second = (2 * (one / 255) - 1 for one in (first, second))
        pyramid = correlations(*self.fnet(torch.cat((first, second))).chunk(2))
        state, context = self.cnet(first).tensor_split([self.hidden], dim=1)
        state, context = state.tanh(), context.relu()
        start = places(*state.shape[-2:], like=state)
        flow = torch.zeros(len(state), 2, *state.shape[-2:], dtype=state.dtype, device=state.device)
        for _ in range(iterations):
            state, step = self.update_block(state, context, lookup(pyramid, start + flow), flow)
            flow = flow + step
        return upsampled(flow, MASK_SCALE * self.update_block.mask(state))


class Encoder(nn.Module):
    """(b, width, h, w) from (b, 3, height, width)."""

    def __init__(self, stages: tuple[int, int, int], width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        one, two, three = stages
        self.conv1, self.norm1 = nn.Conv2d(3, one, 7, 2, padding=3), norm(one)
        self.layer1 = nn.Sequential(Residual(one, one, 1, norm), Residual(one, one, 1, norm))
        self.layer2 = nn.Sequential(Residual(one, two, 2, norm), Residual(two, two, 1, norm))
        self.layer3 = nn.Sequential(Residual(two, three, 2, norm), Residual(three, three, 1, norm))
        self.conv2 = nn.Conv2d(three, width, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(pictures)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Residual(nn.Module):
    """Two convolutions beside the input, which a third one brings to their size where it has another."""

    def __init__(self, before: int, width: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, width, 3, stride, padding=1), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), norm(width)
        self.downsample = None
        if stride > 1:
            self.norm3 = norm(width)  # the file has it under both names
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Update(nn.Module):
    """One step: the state after it, and by how much the flow changes."""

    def __init__(self, size: RaftSize) -> None:
        super().__init__()
        self.encoder = MotionEncoder(size)
        self.gru = SeparableGRU(size.hidden, size.context + size.motion)
        self.flow_head = nn.ModuleDict({
            "conv1": nn.Conv2d(size.hidden, size.head, 3, padding=1), "conv2": nn.Conv2d(size.head, 2, 3, padding=1)
        })  # fmt: skip
        self.mask = nn.Sequential(
            nn.Conv2d(size.hidden, size.head, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(size.head, NEIGHBOURS * BLOCK_PX**2, 1),
        )

    def forward(self, state: Tensor, context: Tensor, found: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """(b, hidden, h, w) and (b, 2, h, w), from the state, the context, lookups (b, ``LOOKUPS``, h, w) and the flow
        in blocks."""
        state = self.gru(state, torch.cat((context, self.encoder(flow, found)), dim=1))
        return state, self.flow_head["conv2"](F.relu(self.flow_head["conv1"](state)))


class MotionEncoder(nn.Module):
    """(b, motion, h, w), the last two of which are the flow itself."""

    def __init__(self, size: RaftSize) -> None:
        super().__init__()
        (wide, narrow), (far, near) = size.alike, size.moved
        self.convc1, self.convc2 = nn.Conv2d(LOOKUPS, wide, 1), nn.Conv2d(wide, narrow, 3, padding=1)
        self.convf1, self.convf2 = nn.Conv2d(2, far, 7, padding=3), nn.Conv2d(far, near, 3, padding=1)
        self.conv = nn.Conv2d(narrow + near, size.motion - 2, 3, padding=1)

    def forward(self, flow: Tensor, found: Tensor) -> Tensor:
        alike = F.relu(self.convc2(F.relu(self.convc1(found))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat((F.relu(self.conv(torch.cat((alike, moved), dim=1))), flow), dim=1)


class SeparableGRU(nn.Module):
    """A gated recurrent unit of convolutions along rows, and one of convolutions along columns."""

    def __init__(self, hidden: int, given: int) -> None:
        super().__init__()
        for axis, kernel in enumerate(((1, 5), (5, 1)), start=1):
            padding = (kernel[0] // 2, kernel[1] // 2)
            for gate in "zrq":
                setattr(self, f"conv{gate}{axis}", nn.Conv2d(hidden + given, hidden, kernel, padding=padding))

    def forward(self, state: Tensor, given: Tensor) -> Tensor:
        for axis in (1, 2):
            renew, reset, propose = (getattr(self, f"conv{gate}{axis}") for gate in "zrq")
            both = torch.cat((state, given), dim=1)
            share = renew(both).sigmoid()
            proposed = propose(torch.cat((reset(both).sigmoid() * state, given), dim=1)).tanh()
            state = (1 - share) * state + share * proposed
        return state


def places(rows: int, columns: int, like: Tensor) -> Tensor:
    """(2, h, w) column and row of each block."""
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=like.dtype, device=like.device) for n in (rows, columns)), indexing="ij"
    )
    return torch.stack((x, y))


def correlations(first: Tensor, second: Tensor) -> list[Tensor]:
    """The pyramid of how alike all places of two pictures are: (b n, 1, h / 2^k, w / 2^k) for each of ``LEVELS``, from
    features (b, c, h, w)."""
    b, channels, h, w = second.shape
    alike = torch.einsum("bcn,bcm->bnm", first.flatten(2), second.flatten(2)) / channels**0.5
    pyramid = [alike.view(b * h * w, 1, h, w)]
    for _ in range(LEVELS - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def lookup(pyramid: list[Tensor], where: Tensor) -> Tensor:
    """(b, ``LOOKUPS``, h, w): what each level holds around a place, within ``RADIUS`` of its own blocks, bilinear and 0
    outside; offsets to the right are the slower ones, as in the published network.

    where: (b, 2, h, w) column and row, in blocks, of the second picture
    """
    b, _, h, w = where.shape
    offset = torch.arange(-RADIUS, RADIUS + 1, dtype=where.dtype, device=where.device)
    window = torch.stack(torch.meshgrid(offset, offset, indexing="ij"), dim=-1)
    centre = rearrange(where, "b two h w -> (b h w) 1 1 two")
    found = []
    for level, alike in enumerate(pyramid):
        extent = torch.tensor([alike.shape[-1], alike.shape[-2]], dtype=where.dtype, device=where.device)
        # By the sides of cells, not their centres: a level of one cell has a side, too.
        grid = (2 * (centre / 2**level + window) + 1) / extent - 1
        found.append(F.grid_sample(alike, grid, align_corners=False).flatten(1))
    return rearrange(torch.cat(found, dim=1), "(b h w) lookups -> b lookups h w", b=b, h=h, w=w)


def upsampled(flow: Tensor, weights: Tensor) -> Tensor:
    """(b, 2, 8 h, 8 w) flow in pixels, each a mean of the nine blocks around it.

    flow:    (b, 2, h, w) in blocks, 0 outside
    weights: (b, 9 * 8 * 8, h, w) before the softmax over the nine
    """
    h, w = flow.shape[-2:]
    shares = rearrange(weights, "b (nine p q) h w -> b 1 nine p q h w", nine=NEIGHBOURS, p=BLOCK_PX).softmax(dim=2)
    around = F.unfold(BLOCK_PX * flow, 3, padding=1)
    around = rearrange(around, "b (two nine) (h w) -> b two nine 1 1 h w", two=2, h=h, w=w)
    return rearrange((shares * around).sum(dim=2), "b two p q h w -> b two (h p) (w q)")
