"""What a sound is, by networks that name 527 kinds of sound: Inception Score, Frechet distance and divergence of kinds.

Read for them: av_bench/extract.py, evaluate.py, extraction_models.py, data/audio_dataset.py and metrics/ of
hkchengrex/av-benchmark; kl/kld_inferencer.py and calculate_metrics.py of Verse-Bench at commit 5645a09.

What differs from both: sounds are resampled by FFmpeg, not by torchaudio or librosa.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import device, digest_of, need_asset, network
from ovikit.evaluation.protocols import MetricSpec, Need, Part, PromptItem, Score, Unscored
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.listening.cnn14 import FRONTS, NUMPY_ARRAYS, Cnn14
from ovikit_versebench.listening.options import Rules
from ovikit_versebench.listening.passt import RATE_HZ as PASST_HZ
from ovikit_versebench.listening.passt import Passt as PasstNetwork
from ovikit_versebench.listening.passt import log_mel
from ovikit_versebench.listening.sounds import QUIETEST, at_peak, padded, plain, why_unheard
from ovikit_versebench.listening.statistics import (
    IS_PARTS,
    divergence,
    frechet_distance,
    inception_score,
    inception_score_in_parts,
)

VERSION = "1"
TRUTH_SET, OTHER_SETS = "set2", ("set1", "set3")
"""Of Verse-Bench: its clips with recorded sound. Its other sets have no part in FD and KL."""
NO_TRUTH = Unscored("it has no ground truth", asked=False)
PASST_WINDOW = 10 * PASST_HZ
PASST_STEP = PASST_WINDOW // 2
PADDED_FROM = 0.15
"""Share of a window from which on Verse-Bench's tool pads it; shorter sounds it takes as they are."""
ADDED = 1e-6
"""What Verse-Bench's tool adds to probabilities."""


class _Tagger:
    """Three metrics of the kinds that a network hears in a sound.

    name:   behind IS, FD, KL
    width:  of the embedding
    added:  to the probabilities of the generated sound's kinds
    parts:  whether the Inception Score is the mean over ten parts of the set
    """

    quietest: float | None = QUIETEST

    def __init__(self, name: str, need: Need, version: str, *, width: int, added: float, parts: bool) -> None:
        self.needs = (need,)
        self.version = version
        self._added, self._parts = added, parts
        self._is, self._fd, self._kl = f"is_{name}", f"fd_{name}", f"kl_{name}"
        lowest = 0.0 if not added else -math.log1p(1000 * added)
        self.metrics = (
            MetricSpec(
                self._is, "higher", "", (1.0, math.inf), version,
                "Inception Score of the set: each sound is of a clear kind, and the kinds are many"
                + ("; mean over ten parts of the set" if parts else ""),
            ),
            MetricSpec(
                self._fd, "lower", "", (0.0, math.inf), version,
                f"Frechet distance of the set from its ground truth, of {width} features; sets of fewer than about "
                f"{width} items read too far",
            ),
            MetricSpec(
                self._kl, "lower", "nats", (lowest, math.inf), version,
                "divergence of the kinds of sound: KL(truth || generated)",
            ),
        )  # fmt: skip

    def _hear(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and logits of a sound (n,) that is none of those that cannot be judged."""
        raise NotImplementedError

    @torch.inference_mode()
    def features(self, clip: Clip) -> dict[str, Any]:
        why = why_unheard(clip, self.quietest)
        if why is not None or clip.audio is None:
            return {"why": why}
        embedding, logits = self._hear(clip.audio.float())
        return {"why": None, "embedding": plain(embedding), "logits": plain(logits)}

    def metric_leaves_out(self, metric: str, item: PromptItem) -> str | None:
        return None if metric == self._is else of_another_set(item)

    def score(self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem) -> dict[str, Score]:
        return self.compare(video, audio, NO_TRUTH, item)

    def compare(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], truth: Mapping[str, Any] | Unscored, item: PromptItem
    ) -> dict[str, Score]:
        if audio["why"] is not None:
            return {metric.name: Unscored(audio["why"]) for metric in self.metrics}
        found: dict[str, Score] = {self._is: Part((item.id, torch.tensor(audio["logits"])))}
        true = known_truth(truth)
        if isinstance(true, Unscored):
            return found | {self._fd: true, self._kl: true}
        logits = [torch.tensor(one["logits"]) for one in (true, audio)]
        return found | {
            self._fd: Part(tuple(torch.tensor(one["embedding"]) for one in (audio, true))),
            self._kl: divergence(*logits, added=self._added),
        }

    def pool(self, name: str, parts: Sequence[Any]) -> float | Unscored:
        if name == self._fd:
            return set_distance(parts)
        least = IS_PARTS if self._parts else 2
        if len(parts) < least:
            return Unscored(f"of {len(parts)} sounds there is no Inception Score; it takes {least}")
        # By name: the order matters where the set is divided.
        logits = torch.stack([one for _, one in sorted(parts, key=lambda part: part[0])])
        return inception_score_in_parts(logits) if self._parts else inception_score(logits)


def of_another_set(item: PromptItem) -> str | None:
    """Why an item is not compared with its ground truth, which it may have."""
    return f"it is not of {TRUTH_SET}" if item.truth.get("subset") in OTHER_SETS else None


def known_truth(truth: Mapping[str, Any] | Unscored) -> Mapping[str, Any] | Unscored:
    """The features of an item's ground truth, or why there is no comparison with it."""
    if isinstance(truth, Unscored):
        return truth
    return truth if truth["why"] is None else Unscored(f"its ground truth: {truth['why']}")


def set_distance(parts: Sequence[tuple[Tensor, Tensor]]) -> float | Unscored:
    """Frechet distance of what was made from the truth, of the embeddings (made, true) of each item."""
    if len(parts) < 2:
        return Unscored("of one sound there is no Frechet distance; it takes two of either side")
    made, true = (torch.stack(side) for side in zip(*parts, strict=True))
    return frechet_distance(made, true)


class Panns(_Tagger):
    """IS, FD and KL as av-benchmark has them of PANNs.

    official: of the first ``first_s`` of each sound, without its mean; silence counts; the Inception Score is the mean
              of those of ten parts of the set, drawn by a fixed seed in the order of the names.
    fixed:    of whole sounds as they are; silence is unscored; one Inception Score of the whole set.
    """

    def __init__(self, assets: Assets, weights: str | None, rules: Rules, rate_hz: int, first_s: float) -> None:
        self._assets, self._official, self._first_s = assets, rules == "official", first_s
        self._front = FRONTS[rate_hz]
        self._weights = weights or ("Cnn14_16k_mAP=0.438.pth" if rate_hz == 16000 else "Cnn14_mAP=0.431.pth")
        self.view = View(sample_rate_hz=rate_hz, modalities=("audio",))
        self.quietest = None if self._official else QUIETEST
        need = need_asset(
            assets, self._weights, "CC BY 4.0 (weights), MIT (code)", "https://zenodo.org/records/3987831"
        )
        first = f"/{first_s:g}" if self._official else ""
        version = f"{VERSION}/{rules}/{rate_hz}{first}/{digest_of(assets, need)}"
        super().__init__("panns", need, version, width=2048, added=0.0, parts=self._official)

    @cached_property
    def _network(self) -> nn.Module:
        with torch.serialization.safe_globals(NUMPY_ARRAYS):
            return network(lambda: Cnn14(self._front), self._assets.path(self._weights), within="model")

    def _hear(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        if self._official:
            sound = (sound - sound.mean())[: int(self._first_s * self._front.rate_hz)]
        embedding, logits = self._network(sound[None].to(device()))
        return embedding[0].cpu(), logits[0].cpu()


class Passt(_Tagger):
    """KL as Verse-Bench has it of PaSST, and with it FD and IS; of windows of 10 s, each 5 s after the one before, and
    what they give in the mean.

    official: sounds are brought to a peak of -1 dBFS; of 1.5 s and less they are not padded; 1e-6 is added to each
              probability of the generated sound, which makes the divergence of what is sure a little smaller.
    fixed:    as av-benchmark, without these three.
    """

    view = View(sample_rate_hz=PASST_HZ, modalities=("audio",))

    def __init__(self, assets: Assets, weights: str, rules: Rules) -> None:
        self._assets, self._weights, self._official = assets, weights, rules == "official"
        self.quietest = 0.0 if self._official else QUIETEST
        need = need_asset(assets, weights, "Apache-2.0", "https://github.com/kkoutini/PaSST/releases")
        version = f"{VERSION}/{rules}/{digest_of(assets, need)}"
        super().__init__("passt", need, version, width=768, added=ADDED if self._official else 0.0, parts=False)

    @cached_property
    def _network(self) -> nn.Module:
        return network(PasstNetwork, self._assets.path(self._weights))

    def metric_leaves_out(self, metric: str, item: PromptItem) -> str | None:
        if self._official and metric != self._is and item.truth.get("audio_prompts") == []:
            return "it has no audio prompt"
        return super().metric_leaves_out(metric, item)

    def _hear(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        whole = at_peak(sound) if self._official else sound
        found = [self._network(log_mel(window[None].to(device()))) for window in self._windows(whole)]
        embeddings, logits = (torch.cat(side).mean(dim=0).cpu() for side in zip(*found, strict=True))
        return embeddings, logits

    def _windows(self, sound: Tensor) -> Iterator[Tensor]:
        for start in range(0, max(PASST_STEP, len(sound) - PASST_STEP), PASST_STEP):
            window = sound[start : start + PASST_WINDOW]
            short = self._official and len(window) <= PADDED_FROM * PASST_WINDOW
            yield window if short else padded(window, PASST_WINDOW)
