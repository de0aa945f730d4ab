"""MANIQA (Yang et al. 2022, arXiv 2204.08958), with the names of the published file ``ckpt_koniq10k.pt``.

Read for it: maniqa_arch.py and maniqa_swin.py of the package pyiqa 0.1.16, and predict_one_image.py of IIGROUP/MANIQA,
which that file is of: residuals are scaled by 0.8 there.

Shape legend: b squares of a picture, n = s * s patches, w width of the backbone, y and x pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovikit_versebench.vit import Block

LAYERS = (6, 7, 8, 9)
"""Blocks of the backbone whose tokens are looked at; what comes after them is in the file and not used."""
APART = -100.0
"""In place of minus infinity, between patches that are neighbours only because the picture was rolled."""


@dataclass(frozen=True, slots=True)
class ManiqaSize:
    """The published network; tests make smaller ones."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    image_px: int = 224
    patch_px: int = 8
    classes: int = 1000
    hidden: int = 768
    window_heads: int = 4
    window: int = 4
    scale: float = 0.8

    @property
    def side(self) -> int:
        """Patches along a picture's side."""
        return self.image_px // self.patch_px


class Maniqa(nn.Module):
    """(b,) opinions, from 0 to about 1, of squares (b, 3, y, x) in [0, 1]."""

    def __init__(self, size: ManiqaSize = ManiqaSize()) -> None:
        super().__init__()
        self.size = size
        width, half = size.width, size.width // 2
        self.vit = _Backbone(size)
        self.tablock1 = nn.Sequential(*(_Transposed(size.side**2) for _ in range(2)))
        self.conv1 = nn.Conv2d(len(LAYERS) * width, width, 1)
        self.swintransformer1 = _Swin(size, width)
        self.tablock2 = nn.Sequential(*(_Transposed(size.side**2) for _ in range(2)))
        self.conv2 = nn.Conv2d(width, half, 1)
        self.swintransformer2 = _Swin(size, half)
        self.fc_score = _head(half, nn.ReLU())
        self.fc_weight = _head(half, nn.Sigmoid())

    def forward(self, squares: Tensor) -> Tensor:
        grid = (self.size.side, self.size.side)
        x = self.vit(2 * squares - 1).transpose(1, 2)  # (b, 4 w, n)
        x = self.conv1(self.tablock1(x).unflatten(-1, grid))
        x = self.swintransformer1(x)
        x = self.conv2(self.tablock2(x.flatten(2)).unflatten(-1, grid))
        patches = self.swintransformer2(x).flatten(2).transpose(1, 2)
        score, weight = self.fc_score(patches)[..., 0], self.fc_weight(patches)[..., 0]
        return (score * weight).sum(dim=1) / weight.sum(dim=1)


class _Backbone(nn.Module):
    """(b, n, 4 w): the patches' tokens after four blocks of a vision transformer, side by side."""

    def __init__(self, size: ManiqaSize) -> None:
        super().__init__()
        width = size.width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, size.patch_px, size.patch_px)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + size.side**2, width))
        self.blocks = nn.ModuleList(Block(width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, size.classes)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patch_embed["proj"](pictures).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.pos_embed
        found: list[Tensor] = []
        for block in list(self.blocks)[: LAYERS[-1] + 1]:
            x = block(x)
            found.append(x[:, 1:])
        return torch.cat([found[layer] for layer in LAYERS], dim=-1)


class _Transposed(nn.Module):
    """Attention of channels over channels (b, c, n). What it gives is read in the other order, as it was trained."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.c_q, self.c_k, self.c_v = (nn.Linear(patches, patches) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(self.c_q(x), self.c_k(x), self.c_v(x))
        return x + found.transpose(1, 2).reshape(x.shape)


class _Swin(nn.Module):
    """Attention within windows of a picture (b, c, s, s), and a convolution; twice, each added to what went in."""

    def __init__(self, size: ManiqaSize, width: int) -> None:
        super().__init__()
        self._scale = size.scale
        self.downsample = nn.Conv2d(width, width, 3, 2, 1)
        """Of the published file; nothing uses it."""
        self.layers = nn.ModuleList(_SwinLayer(size, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + self._scale * layer(x)
        return x


class _SwinLayer(nn.Module):
    def __init__(self, size: ManiqaSize, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.blocks = nn.ModuleList(_SwinBlock(size, width, shift) for shift in (0, size.window // 2))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.conv(tokens.permute(0, 3, 1, 2)).relu()


class _SwinBlock(nn.Module):
    """Over (b, s, s, c); windows are moved by ``shift``, around the edges."""

    def __init__(self, size: ManiqaSize, width: int, shift: int) -> None:
        super().__init__()
        self._window, self._shift = size.window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _WindowAttention(width, size.window, size.window_heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, size.hidden), "fc2": nn.Linear(size.hidden, width)})
        self.register_buffer("attn_mask", _apart(size.side, size.window, shift) if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        batch, side, window = len(x), x.shape[1], self._window
        count = side // window
        rolled = self.norm1(x).roll((-self._shift, -self._shift), (1, 2))
        parts = rolled.unflatten(2, (count, window)).unflatten(1, (count, window)).transpose(2, 3)
        seen = self.attn(parts.reshape(batch, count**2, window**2, -1), self.attn_mask)
        whole = seen.reshape(batch, count, count, window, window, -1).transpose(2, 3).reshape(x.shape)
        x = x + whole.roll((self._shift, self._shift), (1, 2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class _WindowAttention(nn.Module):
    """Over (b, windows, patches, c), with a bias for how two patches lie to each other."""

    def __init__(self, width: int, window: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative(window))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self._heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.get_buffer("relative_position_index")].permute(2, 0, 1)
        bias = bias[None] if mask is None else bias + mask[:, None]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        return self.proj(found.transpose(2, 3).flatten(3))


def _relative(window: int) -> Tensor:
    """(n, n) the number of how one patch of a window lies to another."""
    rows, columns = (one.flatten() for one in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    down, across = (one[:, None] - one + window - 1 for one in (rows, columns))
    return down * (2 * window - 1) + across


def _apart(side: int, window: int, shift: int) -> Tensor:
    """(windows, n, n): 0 between patches that were neighbours before the picture was rolled."""
    place = torch.arange(side)
    part = (place >= side - window).long() + (place >= side - shift).long()
    parts = 3 * part[:, None] + part
    count = side // window
    windows = parts.unflatten(1, (count, window)).unflatten(0, (count, window)).transpose(1, 2)
    flat = windows.reshape(count**2, window**2)
    return APART * (flat[:, None] != flat[:, :, None]).float()


def _head(width: int, last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Identity(), nn.Linear(width, 1), last)
