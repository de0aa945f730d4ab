"""The options of the evaluators that see with published networks. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, field_validator

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]
Mark = Literal["aesthetic", "musiq", "maniqa"]


class IdentityConfig(Config):
    """Options of ``identity``."""

    weights: str = Field("dinov3-vitl16-pretrain-lvd1689m", min_length=1)
    """A folder in the layout of facebook/dinov3-vitl16-pretrain-lvd1689m: in the folder of the assets, or a path, or
    hf://OWNER/NAME@REVISION."""
    rules: Rules = "fixed"
    """fixed: the class token of a frame every ``every_s``; official: the last token but one, which is that of a patch,
    of every frame."""
    every_s: PositiveFloat = 0.2
    """Seconds between the frames that rules ``fixed`` look at."""


class FlowMagnitudeConfig(Config):
    """Options of ``flow-magnitude``."""

    weights: str = Field("raft-things.pth", min_length=1)
    """Weights of RAFT trained on FlyingThings3D: a file in the folder of the assets, or a path."""
    rules: Rules = "fixed"
    """fixed: length of the flow in picture heights per second, of a pair of frames every ``every_s``; official: mean of
    the magnitudes of its two components, in pixels of frames of 640 at most, of all pairs."""
    every_s: PositiveFloat = 0.25
    """Seconds between the pairs of neighbouring frames that rules ``fixed`` compare, as those of ``motion``."""


class PictureQualityConfig(Config):
    """Options of ``picture-quality``."""

    marks: tuple[Mark, ...] = Field(("aesthetic", "musiq", "maniqa"), min_length=1)
    """Networks that are asked; AS is of all three."""
    aesthetic: str = Field("aesthetic_predictor_v2_5.pth", min_length=1)
    """Weights of the aesthetic predictor v2.5: a file in the folder of the assets, or a path."""
    siglip: str = Field("siglip-so400m-patch14-384", min_length=1)
    """What the aesthetic predictor sees with: a folder in the layout of google/siglip-so400m-patch14-384, or
    hf://OWNER/NAME@REVISION."""
    musiq: str = Field("musiq_koniq_ckpt-e95806b9.pth", min_length=1)
    """Weights of MUSIQ, trained on KonIQ-10k, as pyiqa has them."""
    maniqa: str = Field("ckpt_koniq10k.pt", min_length=1)
    """Weights of MANIQA, trained on KonIQ-10k."""
    rules: Rules = "fixed"
    """fixed: a frame every ``every_s``, for MANIQA cut into squares that cover it; official: every frame, for MANIQA 20
    squares of each, drawn by a seed."""
    every_s: PositiveFloat = 1.0
    """Seconds between the frames that rules ``fixed`` look at."""

    @field_validator("marks")
    @classmethod
    def _once(cls, marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
        if len(set(marks)) < len(marks):
            raise ValueError("each mark is asked once")
        return marks
