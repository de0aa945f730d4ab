"""The options of the evaluators that listen with published networks. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from ovikit.kernel.component import Config

Rules = Literal["fixed", "official"]


class PannsConfig(Config):
    """Options of ``panns``."""

    sample_rate_hz: Literal[16000, 32000] = 16000
    """Which of the two published networks: av-benchmark uses the one for 16 kHz."""
    weights: str | None = Field(None, min_length=1)
    """Weights of Cnn14: a file in the folder of the assets, or a path; null: the published file for the sample rate,
    Cnn14_16k_mAP=0.438.pth or Cnn14_mAP=0.431.pth."""
    rules: Rules = "fixed"
    """official: as av-benchmark, the first ``first_s`` of each sound without its mean, silence too, and the mean of the
    Inception Scores of ten parts of the set. fixed: whole sounds, no silence, one score of the whole set."""
    first_s: PositiveFloat = 8.0
    """Seconds from the start that rules ``official`` listen to."""


class PasstConfig(Config):
    """Options of ``passt``."""

    weights: str = Field("passt-s-f128-p16-s10-ap.476-swa.pt", min_length=1)
    """Weights of PaSST-S trained on AudioSet: a file in the folder of the assets, or a path."""
    rules: Rules = "fixed"
    """official: as Verse-Bench's tool, sounds are brought to a peak of -1 dBFS and 1e-6 is added to the generated
    sound's classes. fixed: as av-benchmark, without either."""


class ClapConfig(Config):
    """Options of ``clap``."""

    weights: str = Field("clap-htsat-fused", min_length=1)
    """A folder in the layout of laion/clap-htsat-fused or laion/clap-htsat-unfused: in the folder of the assets, or a
    path, or hf://OWNER/NAME@REVISION. In place of the weights there may be LAION's own file in it, as
    630k-audioset-fusion-best.pt, which Verse-Bench's tool uses."""
    rules: Rules = "fixed"
    """official: as Verse-Bench's tool, the first audio prompt alone, and FD of each clip from its ground truth. fixed:
    all audio prompts as one text, and FD of the whole set."""


class AestheticsConfig(Config):
    """Options of ``audio-aesthetics``."""

    weights: str = Field("audiobox-aesthetics", min_length=1)
    """A folder with model.safetensors and config.json, or with checkpoint.pt, or that file: in the folder of the
    assets, or a path, or hf://OWNER/NAME@REVISION."""
    rules: Rules = "fixed"
    """official: less complexity (PC) is better, as in Verse-Bench's total, and silence is scored. fixed: neither."""
