"""Whether lips and speech belong together: LSE-C and LSE-D by SyncNet, of faces that S3FD finds.

Read for them: joonson/syncnet_python, the scripts of Wav2Lip and MOVA that take its means, and Verse-Bench's
syncnet_inferencer.py at commit 5645a09. The last finds faces by insightface's detector, whose weights are not for
commercial use; here S3FD finds them under both rules. Crops are not written as JPEG and MPEG-4 in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovikit.checkpoints.assets import Assets
from ovikit.evaluation.needs import device, digest_of, need_asset, need_package, network
from ovikit.evaluation.protocols import MetricSpec, PromptItem, Unscored
from ovikit.extras import require
from ovikit.generate.media import View
from ovikit.types import Clip
from ovikit_versebench.sync.faces import RUN_PADDING, TRACK_PADDING, Stretch, crops, runs, scenes, tracks
from ovikit_versebench.sync.options import LipSyncConfig
from ovikit_versebench.sync.packing import packed, unpacked
from ovikit_versebench.sync.s3fd import LEAST_PX, S3FD, faces
from ovikit_versebench.sync.spectra import SOUND_HZ, mfcc
from ovikit_versebench.sync.syncnet import FACE_PX, WINDOW_FRAMES, SyncNet, confidence_and_distance, with_counters

VERSION = "1"
QUIETEST = 1e-4
"""Magnitude below which a sound is none."""
SOURCE = "https://github.com/joonson/syncnet_python"


class LipSync:
    """SyncNet's confidence and distance, means over the faces of a clip."""

    view = View(sample_rate_hz=SOUND_HZ, frame_rate_hz=25.0)

    def __init__(self, assets: Assets, config: LipSyncConfig) -> None:
        self._assets, self._config, self._official = assets, config, config.rules == "official"
        weights = (
            need_asset(assets, config.weights, "MIT", SOURCE),
            need_asset(assets, config.faces, "not stated; trained on WIDER FACE", SOURCE),
        )
        opencv = need_package(
            "cv2", "Apache-2.0", "https://github.com/opencv/opencv-python", "pip install 'ovikit[eval]'"
        )
        self.needs = (*weights, opencv)
        options = (config.rules, config.face_scale, config.least_confidence, config.least_face_px,
                   config.least_track_frames)  # fmt: skip
        self.version = "/".join(map(str, (VERSION, *options, digest_of(assets, *weights))))
        self.metrics = (
            MetricSpec(
                "lse_c", "higher", "", (0.0, math.inf), self.version,
                "SyncNet's confidence: how much nearer lips and speech are at their best offset than at most others",
            ),
            MetricSpec(
                "lse_d", "lower", "", (0.0, math.inf), self.version,
                "SyncNet's distance of lips and speech at their best offset",
            ),
        )  # fmt: skip

    @cached_property
    def _syncnet(self) -> SyncNet:
        return network(SyncNet, self._assets.path(self._config.weights), named=with_counters)

    @cached_property
    def _detector(self) -> S3FD:
        return network(S3FD, self._assets.path(self._config.faces))

    @torch.inference_mode()
    def features(self, clip: Clip) -> dict[str, Any]:
        seen, heard = self._seen(clip.video), self._heard(clip.audio)
        return {
            "unseen": seen if isinstance(seen, str) else None,
            "unheard": heard if isinstance(heard, str) else None,
            "faces": None if isinstance(seen, str) else seen,
            "sound": None if isinstance(heard, str) else packed(heard, "<f4"),
        }

    def leaves_out(self, item: PromptItem) -> str | None:
        return "nobody speaks in it" if "speech" in item.truth and not item.truth["speech"] else None

    def score(
        self, video: Mapping[str, Any], audio: Mapping[str, Any], item: PromptItem
    ) -> dict[str, float | Unscored]:
        if why := video["unseen"] or audio["unheard"]:
            # Verse-Bench's tool leaves clips without a face out of its mean.
            no = Unscored(why, asked=not (self._official and video["unseen"] == why))
            return {"lse_c": no, "lse_d": no}
        sound, found = unpacked(audio["sound"]), []
        for face in video["faces"]:
            lips = unpacked(face["lips"])
            speech = sound[face["first"] : face["first"] + len(lips)]
            if len(speech):
                found.append(confidence_and_distance(lips[: len(speech)], speech))
        if not found:
            no = Unscored("the sound ends before a face is seen")
            return {"lse_c": no, "lse_d": no}
        return {"lse_c": fmean(one for one, _ in found), "lse_d": fmean(one for _, one in found)}

    def _seen(self, video: Tensor | None) -> list[dict[str, Any]] | str:
        """Each face with its first frame and its embeddings (n, 1024), or why there are none."""
        if video is None or len(video) == 0:
            return "no picture"
        frames = video.numpy()
        found = [self._faces(frame) for frame in frames]
        if not any(found):
            return "no face is found"
        stretches = self._stretches(frames, found)
        if not stretches:
            return "no face is seen for long enough, or none is large enough"
        return [{"first": one.first, "lips": packed(self._lips(frames, one), "<f4")} for one in stretches]

    def _faces(self, frame: NDArray[np.uint8]) -> list[list[float]]:
        cv2: Any = require("cv2", "eval")
        scale = self._config.face_scale
        small = cv2.resize(frame, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        if min(small.shape[:2]) < LEAST_PX:
            return []
        pixels = torch.from_numpy(small).permute(2, 0, 1).float()[None].to(device())
        probabilities, boxes = self._detector(pixels)
        return faces(probabilities[0], boxes[0], self._config.least_confidence, frame.shape[:2])

    def _stretches(self, frames: NDArray[np.uint8], found: list[list[list[float]]]) -> list[Stretch]:
        if self._official:
            return runs(found)
        return tracks(found, scenes(frames), self._config.least_track_frames, self._config.least_face_px)

    def _lips(self, frames: NDArray[np.uint8], stretch: Stretch) -> Tensor:
        cut = crops(frames, stretch, RUN_PADDING if self._official else TRACK_PADDING, not self._official, FACE_PX)
        blue_first = torch.from_numpy(np.ascontiguousarray(cut[..., ::-1])).permute(0, 3, 1, 2).float()
        seen = self._syncnet.see(blue_first.to(device())).cpu()
        # The published code does without the last window; Verse-Bench's sound is one frame shorter than its picture.
        return seen[: len(seen) - (2 if self._official else 1)]

    def _heard(self, sound: Tensor | None) -> Tensor | str:
        """(n, 1024) embeddings of the sound from each frame's time on, or why there are none."""
        least_s = (WINDOW_FRAMES + 1) / 25
        if sound is None or len(sound) < least_s * SOUND_HZ:
            return "no sound" if sound is None or len(sound) == 0 else f"the sound is shorter than {least_s:g} s"
        if not bool(torch.isfinite(sound).all()):
            return "the sound has NaN or Inf"
        if not self._official and float(sound.abs().max()) < QUIETEST:
            return "the sound is silent"
        cepstra = torch.from_numpy(mfcc(sound)).float()
        return self._syncnet.hear(cepstra.to(device())).cpu()
