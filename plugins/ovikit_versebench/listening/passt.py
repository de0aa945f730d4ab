"""PaSST-S (Koutini et al. 2022), with the names of the published file, and the spectrum that it was trained on.

Read for it: hear21passt/models/passt.py and preprocess.py of kkoutini/passt_hear21, architecture
passt_s_swa_p16_128_ap476. Compared with hear21passt 0.0.26 at full size and random weights, of 10 s and of 1.25 s: the
same names; spectrum, embedding and logits to 2e-6.

Shape legend: b sounds, n samples, t frames, m mels, p patches, w width, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovikit_versebench.mel import kaldi_filters
from ovikit_versebench.vit import Block

RATE_HZ = 32000
MELS = 128
FFT, WINDOW, HOP = 1024, 800, 320
HIGHEST_HZ = 15000.0
BEFORE = 0.97
"""How much of the sample before is taken away from each."""
PATCH, STRIDE = 16, 10


@dataclass(frozen=True, slots=True)
class PasstSize:
    """The published network; tests make smaller ones. times: places of patches in 10 s, bands: in the spectrum."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    times: int = 99
    bands: int = 12
    classes: int = 527


PUBLISHED = PasstSize()


def log_mel(sounds: Tensor) -> Tensor:
    """(b, m, t) of (b, n) at 32 kHz, t = n / 320 rounded up, scaled as the network was trained."""
    flat = sounds[:, 1:] - BEFORE * sounds[:, :-1]
    bell = torch.hann_window(WINDOW, periodic=False, device=sounds.device)
    power = torch.stft(flat, FFT, HOP, WINDOW, bell, return_complex=True).abs().square()
    filters = kaldi_filters(RATE_HZ, FFT, MELS, 0.0, HIGHEST_HZ).to(power)
    return ((filters.T @ power + 1e-5).log() + 4.5) / 5


class Passt(nn.Module):
    """A transformer over patches of a spectrum that overlap, with places in time and in frequency apart.

    Returns (b, w) embeddings and (b, c) logits of spectra (b, m, t) of at most 10 s.
    """

    def __init__(self, size: PasstSize = PUBLISHED) -> None:
        super().__init__()
        width = size.width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, PATCH, stride=STRIDE)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, width))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, size.bands, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, size.times))
        self.blocks = nn.Sequential(*(Block(width, size.heads) for _ in range(size.depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size.classes))
        self.head_dist = nn.Linear(width, size.classes)
        """Of the published file; only training uses it."""

    def forward(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patch_embed["proj"](spectra[:, None])
        x = x + self.time_new_pos_embed[..., : x.shape[-1]] + self.freq_new_pos_embed
        tokens = torch.cat((self.cls_token, self.dist_token), dim=1) + self.new_pos_embed
        x = torch.cat((tokens.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), dim=1)
        x = self.norm(self.blocks(x))
        embedding = x[:, :2].mean(dim=1)
        return embedding, self.head(embedding)
