"""By how much sound and picture are apart, as Synchformer sees it: AV-A of Verse-Bench, DeSync of av-benchmark.

Read for them: Verse-Bench's syncformer_inferencer.py and calculate_metrics.py at commit 5645a09, the test transforms of
v-iashin/Synchformer, and av_bench/evaluate.py, extract.py and data/video_dataset.py of hkchengrex/av-benchmark.

What differs from them: frames are scaled by FFmpeg's bicubic filter and not encoded again (Verse-Bench encodes them as
H.264; av-benchmark scales by torchvision's), sound is resampled by FFmpeg, and it is silent where it ends before the
picture does.

Shape legend: s segments of 16 frames or 0.64 s, each 8 frames after the one before; t, u moments in a segment's picture
and sound; w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import device, digest_of, need_asset, network
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.sync.options import Rules
from ovikit_versebench.sync.packing import packed, unpacked
from ovikit_versebench.sync.spectra import SOUND_HZ, log_mel
from ovikit_versebench.sync.synchformer import SEGMENT_FRAMES, Synchformer

VERSION = "1"
FRAME_HZ = 25.0
FRAME_SAMPLES = 640
STEP_FRAMES = 8
SEGMENTS = 14
"""Whose picture and sound are compared at once."""
LEAST_FRAMES = SEGMENT_FRAMES + (SEGMENTS - 1) * STEP_FRAMES
CUT_FRAMES = 125
"""5 s from the start, in whose middle AV-A's segments lie."""
MOST_S = 2.0
AT_ONCE = 7
QUIETEST = 1e-4
"""Magnitude below which a sound is none."""
SIDE_BEFORE_CROP = 256
AV_A_SETS = ("set1", "set2")


class _Synchformer:
    """What both metrics share: the network, and features of single segments."""

    exchanges = 1

    def __init__(self, assets: Assets, weights: str, rules: Rules) -> None:
        self._assets, self._weights, self._rules = assets, weights, rules
        self.needs = (
            need_asset(
                assets, weights, "MIT (Synchformer); trained on AudioSet", "https://github.com/v-iashin/Synchformer"
                ", as a state dict at https://github.com/hkchengrex/av-benchmark",
            ),
        )  # fmt: skip
        self.version = f"{VERSION}/{rules}/{digest_of(assets, *self.needs)}"

    @cached_property
    def _network(self) -> Synchformer:
        return network(Synchformer, self._assets.path(self._weights))

    def _why_unseen(self, video: Tensor | None, least: int) -> str | None:
        if video is None or len(video) < least:
            frames = 0 if video is None else len(video)
            return f"the picture has {frames} frames at 25 per second, fewer than {least}"
        if self._rules == "fixed" and bool((video[1:] == video[:-1]).all()):
            return "the picture does not move"
        return None

    def _why_unheard(self, sound: Tensor | None, least: int) -> str | None:
        if sound is None or len(sound) < least * FRAME_SAMPLES:
            seconds = 0 if sound is None else len(sound) / SOUND_HZ
            return f"the sound lasts {seconds:.2f} s, less than {least / FRAME_HZ:g} s"
        if not bool(torch.isfinite(sound).all()):
            return "the sound has NaN or Inf"
        if self._rules == "fixed" and float(sound.abs().max()) < QUIETEST:
            return "the sound is silent"
        return None

    @torch.inference_mode()
    def _seen(self, frames: Tensor, half: bool) -> dict[str, Any]:
        """(s, t, w) of the segments of frames (n, height, width, 3).

        half: pixels are brought to [-1, 1] in half precision, as Synchformer's own code does
        """
        side = self._network.size.image_px
        top, left = (round((size - side) / 2) for size in frames.shape[1:3])
        pixels = frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2)
        scaled = (pixels.half() if half else pixels.float()).div(255).sub(0.5).div(0.5).float()
        segments = scaled.unfold(0, SEGMENT_FRAMES, STEP_FRAMES).permute(0, 4, 1, 2, 3)
        found = [self._network.see(part.to(device())).cpu() for part in segments.split(AT_ONCE)]
        return packed(torch.cat(found), "<f2")

    @torch.inference_mode()
    def _heard(self, sound: Tensor) -> dict[str, Any]:
        """(s, u, w) of the segments of a sound (n,)."""
        size = self._network.size
        segments = sound.float().unfold(0, SEGMENT_FRAMES * FRAME_SAMPLES, STEP_FRAMES * FRAME_SAMPLES)
        spectra = log_mel(segments.to(device()), size.mels, size.spectrum_frames)
        return packed(torch.cat([self._network.hear(part).cpu() for part in spectra.split(AT_ONCE)]), "<f2")

    @torch.inference_mode()
    def _offsets(self, seen: Tensor, heard: Tensor) -> list[float]:
        """Seconds that the sound is ahead of the picture, for each of (b, 14, t, w) and (b, 14, u, w)."""
        logits = self._network.compare(seen.to(device()), heard.to(device()))
        grid = torch.linspace(-MOST_S, MOST_S, logits.shape[-1], dtype=torch.float64)
        return grid[logits.argmax(dim=-1).cpu()].tolist()


class AvOffset(_Synchformer):
    """AV-A: the offset of the 14 segments in the middle of a clip's first 5 s, one of 21 from -2 s to 2 s.

    The tool takes the mean of offsets with their sign, in which clips that are early and late cancel; rules ``fixed``
    take magnitudes. Verse-Bench asks about it in sets 1 and 2.
    """

    view = View(sample_rate_hz=SOUND_HZ, shortest_px=SIDE_BEFORE_CROP, frame_rate_hz=FRAME_HZ)

    def __init__(self, assets: Assets, weights: str, rules: Rules) -> None:
        super().__init__(assets, weights, rules)
        signed = rules == "official"
        self.metrics = (
            MetricSpec(
                "av_a", "lower", "s", (-MOST_S if signed else 0.0, MOST_S), self.version,
                "offset of the sound that Synchformer sees, of the first 5 s; with its sign, so that early and late "
                "clips cancel" if signed else "magnitude of the sound's offset that Synchformer sees, of the first 5 s",
            ),
        )  # fmt: skip
        self._least = CUT_FRAMES if signed else LEAST_FRAMES

    def features(self, clip: Clip) -> dict[str, Any]:
        unseen, unheard = self._why_unseen(clip.video, self._least), self._why_unheard(clip.audio, self._least)
        seen = heard = None
        if clip.video is not None and unseen is None:
            first = _first(len(clip.video))
            seen = self._seen(clip.video[first : first + LEAST_FRAMES], half=True)
        if clip.audio is not None and unheard is None:
            first = _first(len(clip.audio) // FRAME_SAMPLES) * FRAME_SAMPLES
            heard = self._heard(clip.audio[first : first + LEAST_FRAMES * FRAME_SAMPLES])
        return {"unseen": unseen, "unheard": unheard, "seen": seen, "heard": heard}

    def leaves_out(self, item: PromptItem) -> str | None:
        if item.truth.get("subset", AV_A_SETS[0]) not in AV_A_SETS:
            return "AV-A is of sets 1 and 2"
        if "audio_prompts" in item.truth and not item.truth["audio_prompts"]:
            return "it has no audio prompt"
        return None

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if why := video["unseen"] or audio["unheard"]:
            return {"av_a": Unscored(why)}
        [offset] = self._offsets(unpacked(video["seen"])[None], unpacked(audio["heard"])[None])
        return {"av_a": offset if self._rules == "official" else abs(offset)}


def _first(frames: int) -> int:
    """The first frame of the segments in the middle of the first 5 s of a clip."""
    return (min(frames, CUT_FRAMES) - LEAST_FRAMES) // 2


class Desync(_Synchformer):
    """DeSync: the mean magnitude of the offsets of the first and of the last 14 segments of a clip."""

    view = View(sample_rate_hz=SOUND_HZ, shortest_px=224, frame_rate_hz=FRAME_HZ)

    def __init__(self, assets: Assets, weights: str, rules: Rules) -> None:
        super().__init__(assets, weights, rules)
        self.metrics = (
            MetricSpec(
                "desync", "lower", "s", (0.0, MOST_S), self.version,
                "magnitude of the sound's offset that Synchformer sees, mean of a clip's first and last 4.8 s",
            ),
        )  # fmt: skip

    def features(self, clip: Clip) -> dict[str, Any]:
        unseen, unheard = self._why_unseen(clip.video, LEAST_FRAMES), self._why_unheard(clip.audio, LEAST_FRAMES)
        return {
            "unseen": unseen,
            "unheard": unheard,
            "seen": self._seen(clip.video, half=False) if clip.video is not None and unseen is None else None,
            "heard": self._heard(clip.audio) if clip.audio is not None and unheard is None else None,
        }

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if why := video["unseen"] or audio["unheard"]:
            return {"desync": Unscored(why)}
        seen, heard = unpacked(video["seen"]), unpacked(audio["heard"])
        both = min(len(seen), len(heard))
        ends = [torch.stack((one[:SEGMENTS], one[both - SEGMENTS : both])) for one in (seen, heard)]
        return {"desync": sum(map(abs, self._offsets(*ends))) / 2}
