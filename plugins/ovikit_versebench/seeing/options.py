"""The options of the evaluators that see with published networks. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]


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
