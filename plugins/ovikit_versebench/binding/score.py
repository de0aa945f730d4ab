"""How alike the things are that a clip shows and lets hear: the cosine of ImageBind's embeddings, IB of av-benchmark.

Read for it: extract_video.py and evaluate.py of hkchengrex/av-benchmark, its data/video_dataset.py and audio_dataset.py
(as copies of it have them), imagebind/data.py of facebookresearch/ImageBind, and pytorchvideo's
ConstantClipsPerVideoSampler.

What differs from them: frames are scaled by FFmpeg's bicubic filter, not by torchvision's; sound is resampled by
FFmpeg, is the mean of its channels (there the first one) and as long as the picture.

Shape legend: s pieces of a clip, f frames, m mels, t frames of a spectrum, y and x pixels, e width of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import device, digest_of, need_asset, network
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.binding.imagebind import ImageBind, seen_and_heard, without_values
from ovikit_versebench.binding.options import Rules
from ovikit_versebench.listening.sounds import plain, why_unheard
from ovikit_versebench.mel import kaldi_log_mel
from ovikit_versebench.pieces import covering

VERSION = "1"
SOUND_HZ = 16000
SIDE_PX = 224
PIECE_S = 2
"""What the network was trained on: two frames so far apart, and as much sound."""
SOUND_PIECES = 3
"""That av-benchmark takes."""
WINDOW_S = 0.025
"""Of a spectrum: a shorter sound has none."""
SOUND_MEAN, SOUND_STD = -4.268, 9.138
COLOUR_MEAN = (0.48145466, 0.4578275, 0.40821073)
COLOUR_STD = (0.26862954, 0.26130258, 0.27577711)
AT_ONCE = 8
TOLERANCE = 1e-6
"""Of times, in pieces: so that 2 s at 25 frames a second are 50 frames."""


class ImageBindScore:
    """``ib``: the cosine of the mean embedding of a clip's picture with that of its sound.

    official: pairs of frames 2 s apart of the first ``first_s``; three pieces of the sound, which begin at 0, 1/3 and
              2/3 of where the last one could, so that the end is not heard.
    fixed:    as few pieces of 2 s as cover the clip, evenly, of each its first and last frame, and all its sound.
    Of each pair both look at three squares of the picture: its ends and its middle.
    """

    view = View(sample_rate_hz=SOUND_HZ, shortest_px=SIDE_PX)

    def __init__(self, assets: Assets, weights: str, rules: Rules, first_s: float) -> None:
        self._assets, self._weights, self._rules, self._first_s = assets, weights, rules, first_s
        self.needs = (
            need_asset(
                assets, weights, "CC BY-NC-SA 4.0: not for commercial use",
                "https://github.com/facebookresearch/ImageBind",
            ),
        )  # fmt: skip
        self.version = f"{VERSION}/{self._told_rules}/{digest_of(assets, *self.needs)}"
        self.metrics = (
            MetricSpec(
                "ib", "higher", "", (-1.0, 1.0), self.version,
                "cosine of what is seen with what is heard (ImageBind); "
                + (f"pairs of frames of the first {first_s:g} s, the sound but its end" if rules == "official"
                   else "of the whole clip"),
            ),
        )  # fmt: skip

    @property
    def _told_rules(self) -> str:
        return f"official/{self._first_s:g}" if self._rules == "official" else "fixed"

    @cached_property
    def _network(self) -> ImageBind:
        return network(without_values, self._assets.path(self._weights), named=seen_and_heard)

    def features(self, clip: Clip) -> dict[str, Any]:
        unseen, unheard = self._why_unseen(clip), self._why_unheard(clip)
        seen = heard = None
        if clip.video is not None and unseen is None:
            seen = plain(self._seen(clip.video, self._pairs(len(clip.video), clip.frame_rate_hz)))
        if clip.audio is not None and unheard is None:
            heard = plain(self._heard(clip.audio))
        return {"unseen": unseen, "unheard": unheard, "seen": seen, "heard": heard}

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if why := video["unseen"] or audio["unheard"]:
            return {"ib": Unscored(why)}
        seen, heard = (torch.tensor(one, dtype=torch.float64) for one in (video["seen"], audio["heard"]))
        return {"ib": max(-1.0, min(1.0, float(F.cosine_similarity(seen, heard, dim=0))))}

    def _why_unseen(self, clip: Clip) -> str | None:
        if clip.video is None or len(clip.video) == 0:
            return "no picture"
        if self._rules == "fixed":
            seconds = len(clip.video) / clip.frame_rate_hz
            short = seconds < PIECE_S - TOLERANCE
            return f"the picture lasts {seconds:.2f} s, less than {PIECE_S} s" if short else None
        shown, wanted = len(moments(len(clip.video), clip.frame_rate_hz)), self._wanted
        if shown < wanted - 1:
            return (
                f"of its picture av-benchmark takes {shown} frames, of the first {self._first_s:g} s it wants {wanted}"
            )
        return None

    def _why_unheard(self, clip: Clip) -> str | None:
        if self._rules == "fixed":
            return why_unheard(clip, least_s=PIECE_S)
        return why_unheard(clip, quietest=None, least_s=WINDOW_S)

    @property
    def _wanted(self) -> int:
        """How many frames rules ``official`` take."""
        return int(self._first_s / PIECE_S)

    def _pairs(self, frames: int, rate_hz: float) -> list[tuple[int, int]]:
        """Which frames of a picture are looked at together."""
        if self._rules == "fixed":
            length = max(2, round(PIECE_S * rate_hz))
            return [(start, start + length - 1) for start in covering(frames, length)]
        shown = moments(frames, rate_hz)[: self._wanted]
        shown += shown[-1:] * (self._wanted - len(shown))
        return list(pairwise(shown))

    @torch.inference_mode()
    def _seen(self, frames: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
        """(e,) mean over pairs of frames (f, y, x, 3), and over squares."""
        side = self._network.size.image_px
        mean, std = torch.tensor(COLOUR_MEAN), torch.tensor(COLOUR_STD)
        jobs = [(pair, place) for pair in pairs for place in squares(*frames.shape[1:3], side)]
        found: list[Tensor] = []
        for start in range(0, len(jobs), AT_ONCE):
            cut = [
                frames[list(pair), top : top + side, left : left + side]
                for pair, (top, left) in jobs[start : start + AT_ONCE]
            ]
            pixels = (torch.stack(cut).float() / 255 - mean) / std
            found.append(self._network.see(pixels.permute(0, 4, 1, 2, 3).to(device())).cpu())
        return torch.cat(found).mean(dim=0)

    @torch.inference_mode()
    def _heard(self, sound: Tensor) -> Tensor:
        """(e,) mean over pieces of a sound (n,) at 16 kHz."""
        length = PIECE_S * SOUND_HZ
        starts = covering(len(sound), length) if self._rules == "fixed" else beginnings(len(sound))
        size = self._network.size
        spectra = torch.cat([
            log_mel(sound[start : start + length], size.mels, size.spectrum_frames) for start in starts
        ])  # fmt: skip
        return torch.cat([self._network.hear(part.to(device())).cpu() for part in spectra.split(AT_ONCE)]).mean(dim=0)


def log_mel(piece: Tensor, mels: int, frames: int) -> Tensor:
    """(1, m, t) of a piece of sound (n,) as the network was trained: what it is too short for is zero before it is
    normalised."""
    found = kaldi_log_mel((piece - piece.mean())[None].double(), SOUND_HZ, mels)[:, :frames]
    return ((F.pad(found, (0, 0, 0, frames - found.shape[1])) - SOUND_MEAN) / SOUND_STD).transpose(1, 2).float()


def beginnings(samples: int) -> list[int]:
    """Where av-benchmark's three pieces of a sound begin: at 0, 1/3 and 2/3 of where the last one could, by the same
    arithmetic."""
    last_s = Fraction(max(samples / SOUND_HZ - PIECE_S, 0))
    return [int(last_s / SOUND_PIECES * i * SOUND_HZ) for i in range(SOUND_PIECES)]


def moments(frames: int, rate_hz: float) -> list[int]:
    """Which frames FFmpeg's filter ``fps`` shows every 2 s: the last one before 1 s, 3 s and so on; as many as 2 s go
    into the picture, rounded half up."""
    count = max(1, math.floor(frames / rate_hz / PIECE_S + 0.5 + TOLERANCE))
    return [min(frames, math.ceil((i + 0.5) * PIECE_S * rate_hz - TOLERANCE)) - 1 for i in range(count)]


def squares(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Top and left of three squares along the longer side of a picture, at its ends and in its middle; one where they
    are the same."""
    down, across = height - side, width - side
    top, left = math.ceil(down / 2), math.ceil(across / 2)
    found = [(0, left), (top, left), (down, left)] if height > width else [(top, 0), (top, left), (top, across)]
    return found[:1] if len(set(found)) == 1 else found
