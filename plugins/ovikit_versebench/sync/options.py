"""The options of the evaluators of synchrony. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]


class AvOffsetConfig(Config):
    """Options of ``av-offset``."""

    weights: str = Field("synchformer_state_dict.pth", min_length=1)
    """Weights of Synchformer trained on AudioSet: a file in the folder of the assets, or a path."""
    rules: Rules = "fixed"
    """official: as Verse-Bench's tool, the offset with its sign, also of a still picture or of silence; clips of 5 s or
    more. fixed: its magnitude; still pictures and silence are unscored; clips of 4.8 s or more."""


class DesyncConfig(Config):
    """Options of ``desync``."""

    weights: str = Field("synchformer_state_dict.pth", min_length=1)
    """Weights of Synchformer trained on AudioSet: a file in the folder of the assets, or a path."""
    rules: Rules = "fixed"
    """official: as av-benchmark, which scores still pictures and silence, too. fixed: these are unscored."""


class LipSyncConfig(Config):
    """Options of ``lip-sync``."""

    weights: str = Field("syncnet_v2.model", min_length=1)
    """Weights of SyncNet: a file in the folder of the assets, or a path."""
    faces: str = Field("sfd_face.pth", min_length=1)
    """Weights of the face detector S3FD: a file in the folder of the assets, or a path."""
    rules: Rules = "fixed"
    """fixed: face tracks as SyncNet's own pipeline makes them; a clip without one is unscored. official: runs of frames
    with a face as Verse-Bench's tool takes them; a clip without one is not asked about, and so raises the mean."""
    face_scale: PositiveFloat = 0.25
    """By which factor frames are shrunk before faces are looked for."""
    least_confidence: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Of a face that counts."""
    least_face_px: PositiveFloat = 100.0
    """Mean size of a face track's longer side, in pixels of the clip; rules fixed only."""
    least_track_frames: Annotated[int, Field(ge=6)] = 100
    """A face track has more frames than this, at 25 per second; rules fixed only."""
