"""MUSIQ (Ke et al. 2021, arXiv 2108.05997), with the names of the published PyTorch file.

A picture is looked at as patches of itself and of two smaller copies; each patch's place is one of 10 x 10, whatever
the picture's shape. Read for it: musiq_arch.py and multiscale_trans_util.py of the package pyiqa 0.1.16. There smaller
copies are filled up with patches that are masked out; here they are left out, which is the same.

Shape legend: b pictures, p patches, y and x pixels, w width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class MusiqSize:
    """The published network; tests make smaller ones. sides: longer sides of the smaller copies."""

    width: int = 384
    hidden: int = 1152
    depth: int = 14
    heads: int = 6
    patch_px: int = 32
    stem: int = 64
    groups: int = 32
    grid: int = 10
    sides: tuple[int, ...] = (224, 384)


class Musiq(nn.Module):
    """(b,) opinions, from about 0 to 100, of pictures (b, 3, y, x) in [0, 1], all of one size."""

    def __init__(self, size: MusiqSize = MusiqSize()) -> None:
        super().__init__()
        self.size = size
        self.conv_root = _StandardisedConv(3, size.stem, 7, stride=2)
        self.gn_root = nn.GroupNorm(size.groups, size.stem, eps=1e-6)
        self.block1 = _Bottleneck(size.stem, 4 * size.stem, size.groups)
        self.embedding = nn.Linear(4 * size.stem * (size.patch_px // 4) ** 2, size.width)
        self.transformer_encoder = _Encoder(size)
        self.head = nn.Linear(size.width, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        scaled = 2 * pictures - 1
        copies = [_shrunk(scaled, side) for side in sorted(self.size.sides)] + [scaled]
        tokens = torch.cat([self._tokens(copy, scale) for scale, copy in enumerate(copies)], dim=1)
        return self.head(self.transformer_encoder(tokens))[:, 0]

    def _tokens(self, pictures: Tensor, scale: int) -> Tensor:
        """(b, p, w) of a copy, with their places and their scale."""
        side, encoder = self.size.patch_px, self.transformer_encoder
        count = len(pictures)
        down, across = (math.ceil(length / side) for length in pictures.shape[-2:])
        cut = F.unfold(_same(pictures, side, side), side, stride=side)  # (b, 3 y x, p)
        patches = cut.transpose(1, 2).reshape(-1, 3, side, side)
        x = self.gn_root(self.conv_root(patches)).relu()
        x = self.block1(F.max_pool2d(_same(x, 3, 2), 3, 2))
        x = self.embedding(x.permute(0, 2, 3, 1).reshape(count, down * across, -1))
        return encoder.placed(x, hashed(down, across, self.size.grid).to(x.device), scale)


class _Encoder(nn.Module):
    """(b, w): a token of its own that has looked at all patches."""

    def __init__(self, size: MusiqSize) -> None:
        super().__init__()
        self.posembed_input = nn.ParameterDict({"position_emb": nn.Parameter(torch.zeros(1, size.grid**2, size.width))})
        self.scaleembed_input = nn.ParameterDict(
            {"scale_emb": nn.Parameter(torch.zeros(len(size.sides) + 1, size.width))}
        )
        self.cls = nn.Parameter(torch.zeros(1, 1, size.width))
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": _Block(size) for i in range(size.depth)})
        self.encoder_norm = nn.LayerNorm(size.width, eps=1e-6)

    def placed(self, x: Tensor, places: Tensor, scale: int) -> Tensor:
        return x + self.posembed_input["position_emb"][0, places] + self.scaleembed_input["scale_emb"][scale]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.cls.expand(len(x), -1, -1), x), dim=1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x[:, 0])


class _Block(nn.Module):
    def __init__(self, size: MusiqSize) -> None:
        super().__init__()
        width, self._heads = size.width, size.heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "out")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, size.hidden), "fc2": nn.Linear(size.hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norm1(x)
        query, key, value = (
            self.attention[name](seen).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.attention["out"](found)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _StandardisedConv(nn.Conv2d):
    """A convolution whose weights have mean 0 and deviation 1, on pictures padded as TensorFlow does."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(_same(x, self.kernel_size[0], self.stride[0]), weight, None, self.stride)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = _StandardisedConv(inputs, inputs, 1), nn.GroupNorm(groups, inputs, eps=1e-4)
        self.conv2, self.gn2 = _StandardisedConv(inputs, inputs, 3), nn.GroupNorm(groups, inputs, eps=1e-4)
        self.conv3, self.gn3 = _StandardisedConv(inputs, outputs, 1), nn.GroupNorm(groups, outputs, eps=1e-4)
        self.conv_proj, self.gn_proj = _StandardisedConv(inputs, outputs, 1), nn.GroupNorm(groups, outputs, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.gn1(self.conv1(x)).relu()
        found = self.gn2(self.conv2(found)).relu()
        return (self.gn3(self.conv3(found)) + self.gn_proj(self.conv_proj(x))).relu()


def hashed(down: int, across: int, grid: int) -> Tensor:
    """(down * across,) which of grid x grid places each patch has, row by row."""
    rows, columns = (torch.arange(count) * grid // count for count in (down, across))
    return (rows[:, None] * grid + columns).flatten()


def _shrunk(pictures: Tensor, longer: int) -> Tensor:
    """Pictures whose longer side is ``longer``, larger ones too."""
    ratio = longer / max(pictures.shape[-2:])
    shape = [round(length * ratio) for length in pictures.shape[-2:]]
    return F.interpolate(pictures, shape, mode="bicubic", align_corners=False)


def _same(x: Tensor, side: int, stride: int) -> Tensor:
    """Zeros around x, so that each ``stride`` pixels give one output; the odd one below and to the right."""
    more = [max((math.ceil(length / stride) - 1) * stride + side - length, 0) for length in x.shape[-2:]]
    ends: Sequence[int] = (more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2)
    return F.pad(x, list(ends))
