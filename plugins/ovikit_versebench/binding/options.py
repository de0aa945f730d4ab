"""The options of the evaluators that bind picture and sound. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]


class ImageBindConfig(Config):
    """Options of ``imagebind``."""

    weights: str = Field("imagebind_huge.pth", min_length=1)
    """Weights of ImageBind, huge: a file in the folder of the assets, or a path."""
    rules: Rules = "fixed"
    """fixed: pieces of 2 s that cover the whole clip; silence and clips of less than 2 s are unscored. official: as
    av-benchmark, pairs of frames every 2 s of the first ``first_s``, three pieces of the sound that leave its end out,
    silence too."""
    first_s: Annotated[float, Field(ge=4)] = 8.0
    """Seconds from the start whose picture rules ``official`` look at: av-benchmark's ``--audio_length``."""
