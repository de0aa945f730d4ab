"""AudioBox Aesthetics (Tjandra et al. 2025): WavLM-base (Chen et al. 2022) and four heads, by the published names.

Read for it: model/aes.py, model/wavlm.py and infer.py of facebookresearch/audiobox-aesthetics 0.0.4. Compared with that
package at full size and random weights, of whole and of padded windows: the same names, marks to 2e-6. WavLM is held to
transformers' in tests/conformance/test_listening_networks.py.

Shape legend: b windows, n samples, t frames, w width, h heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AXES = ("CE", "CU", "PC", "PQ")
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
PLACES, PLACE_GROUPS = 128, 16
"""Frames, and groups of channels, of the convolution that tells where a frame is."""
BUCKETS, FARTHEST = 320, 800
"""Of distances between frames: exact up to 80, then in growing steps up to 800, for either direction."""


@dataclass(frozen=True, slots=True)
class AestheticsSize:
    """WavLM-base, and heads of ``head_layers`` layers; tests make smaller ones."""

    channels: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    head_layers: int = 5
    head_norm: bool = True
    head_dropout: bool = False
    scaled: bool = True
    """Whether embeddings are brought to length 1."""


class Aesthetics(nn.Module):
    """(b, 4) marks in the order of ``AXES``, not yet on the scale of people's, of (b, n) at 16 kHz, of which the first
    ``heard`` (b,) samples are sound and the others padding."""

    def __init__(self, size: AestheticsSize) -> None:
        super().__init__()
        self._scaled = size.scaled
        self.wavlm_model = WavLM(size)
        self.proj_layer = nn.ModuleDict({axis: _head(size) for axis in AXES})
        self.layer_weights = nn.ParameterDict({axis: nn.Parameter(torch.zeros(size.depth + 1)) for axis in AXES})

    def forward(self, sounds: Tensor, heard: Tensor) -> Tensor:
        layers, here = self.wavlm_model(sounds, heard)
        # The mean over frames first: it and the mean over layers can be exchanged.
        means = (layers * here[..., None]).sum(dim=2) / here.sum(dim=1).clamp_min(1)[:, None]
        marks: list[Tensor] = []
        for axis in AXES:
            x = torch.einsum("lbw,l->bw", means, self.layer_weights[axis].softmax(dim=0))
            marks.append(self.proj_layer[axis](F.normalize(x, dim=-1) if self._scaled else x))
        return torch.cat(marks, dim=-1)


def _head(size: AestheticsSize) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(size.head_layers - 1):
        parts.append(nn.Linear(size.width, size.width))
        parts += [nn.LayerNorm(size.width)] if size.head_norm else []
        parts += [nn.GELU(), nn.Dropout()] if size.head_dropout else [nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(size.width, 1))


class WavLM(nn.Module):
    """What goes into the first and comes out of each layer, (layers, b, t, w), and which frames are sound, (b, t)."""

    def __init__(self, size: AestheticsSize) -> None:
        super().__init__()
        self.feature_extractor = nn.ModuleDict({"conv_layers": _convolutions(size.channels)})
        self.layer_norm = nn.LayerNorm(size.channels)
        self.post_extract_proj = nn.Linear(size.channels, size.width)
        self.mask_emb = nn.Parameter(torch.zeros(size.width))
        """Of the published file; only training uses it."""
        self.encoder = _Encoder(size)

    def forward(self, sounds: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        x = sounds[:, None]
        for convolution in self.feature_extractor["conv_layers"].children():
            x = convolution(x)
        x = self.post_extract_proj(self.layer_norm(x.transpose(1, 2)))
        # A frame is sound where any sample of its share of the window is.
        share = sounds.shape[1] // x.shape[1]
        here = torch.arange(x.shape[1], device=x.device) * share < heard[:, None]
        return self.encoder(x * here[..., None], here), here


def _convolutions(channels: int) -> nn.ModuleList:
    found = nn.ModuleList()
    for i, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
        convolution = nn.Conv1d(channels if i else 1, channels, kernel, stride=stride, bias=False)
        norm = [] if i else [nn.GroupNorm(channels, channels)]
        found.append(nn.Sequential(convolution, nn.Identity(), *norm, nn.GELU()))
    return found


class _Encoder(nn.Module):
    def __init__(self, size: AestheticsSize) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(_PlaceConvolution(size.width))
        self.layer_norm = nn.LayerNorm(size.width)
        self.layers = nn.ModuleList([_Layer(size, first=i == 0) for i in range(size.depth)])

    def forward(self, x: Tensor, here: Tensor) -> Tensor:
        x = self.layer_norm(x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2))
        first = self.layers[0]
        assert isinstance(first, _Layer)
        nearness = first.self_attn.nearness(x.shape[1])
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1], nearness, here))
        return torch.stack(found)


class _PlaceConvolution(nn.Module):
    """A convolution whose weight has its length, for each of its places, as a parameter of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(1, 1, PLACES))
        self.weight_v = nn.Parameter(torch.ones(width, width // PLACE_GROUPS, PLACES))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)
        found = F.conv1d(x, weight, self.bias, padding=PLACES // 2, groups=PLACE_GROUPS)
        return F.gelu(found[..., :-1])


class _Layer(nn.Module):
    def __init__(self, size: AestheticsSize, first: bool) -> None:
        super().__init__()
        self.self_attn = _Attention(size.width, size.heads, first)
        self.self_attn_layer_norm = nn.LayerNorm(size.width)
        self.fc1, self.fc2 = nn.Linear(size.width, 4 * size.width), nn.Linear(4 * size.width, size.width)
        self.final_layer_norm = nn.LayerNorm(size.width)

    def forward(self, x: Tensor, nearness: Tensor, here: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, nearness, here))
        return self.final_layer_norm(x + self.fc2(F.gelu(self.fc1(x))))


class _Attention(nn.Module):
    """Attention with a bias by distance, learnt in the first layer and weighted in each by what is heard."""

    def __init__(self, width: int, heads: int, first: bool) -> None:
        super().__init__()
        self._heads = heads
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            self.add_module(name, nn.Linear(width, width))
        self.grep_linear = nn.Linear(width // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))
        if first:
            self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    def nearness(self, frames: int) -> Tensor:
        """(h, t, t) the bias of each distance."""
        places = torch.arange(frames, device=self.grep_a.device)
        return self.relative_attention_bias(buckets(places[None, :] - places[:, None])).permute(2, 0, 1)

    def forward(self, x: Tensor, nearness: Tensor, here: Tensor) -> Tensor:
        split = x.unflatten(-1, (self._heads, -1)).transpose(1, 2)
        first, second = self.grep_linear(split).unflatten(-1, (2, 4)).sum(dim=-1).sigmoid().chunk(2, dim=-1)
        bias = (first * (second * self.grep_a - 1) + 2) * nearness
        bias = bias.masked_fill(~here[:, None, None, :], -torch.inf)
        query, key, value = (
            self.get_submodule(name)(x).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.get_submodule("out_proj")(found.transpose(1, 2).flatten(2))


def buckets(distances: Tensor) -> Tensor:
    """The number of the bucket of each distance in frames: those ahead have the second half."""
    half = BUCKETS // 2
    exact = half // 2
    far = distances.abs()
    steps = (far.clamp_min(1).float() / exact).log() / math.log(FARTHEST / exact) * (half - exact)
    grown = (exact + steps).long().clamp_max(half - 1)
    return torch.where(far < exact, far, grown) + half * (distances > 0)
