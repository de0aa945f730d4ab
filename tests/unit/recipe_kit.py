"""A catalog and a recipe to try the recipe machinery with, independent of what is installed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ovikit import builtins
from ovikit.kernel.catalog import Catalog, Plugin, Registered
from ovikit.kernel.component import Component, Config, NoOptions
from ovikit.kernel.kinds import KINDS


class TowerConfig(Config):
    """Options of a tower."""

    width: int = Field(gt=0)
    """Width of the tokens."""
    heads: int = 4
    """Attention heads."""
    patch: tuple[int, int, int] = (1, 2, 2)
    """Size of a patch."""
    norm: Literal["layer", "rms"] = "layer"
    """Which norm."""

    @model_validator(mode="after")
    def _divides(self) -> TowerConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self


class Gate(Config):
    """A nested mapping of options."""

    scale: float = 0.1
    """Factor on the gate."""


class GatedConfig(Config):
    """Options of a fusion with something below."""

    gate: Gate = Gate()
    """The gate."""
    per_layer: dict[str, float] = Field(default_factory=dict)
    """Factor of some layers."""


class RatioConfig(Config):
    """Options of a positional scheme."""

    ratio: float = 1.0
    """By what the audio index is multiplied."""


class ClipsConfig(Config):
    """Options of a dataset or prompt set."""

    clips: int = Field(gt=0)
    """How many."""


def _build(config: object, **_: object) -> object:
    return config


PLUGIN = Plugin("kit", "kit-dist", "1.2")
COMPONENTS = {
    "backbone": (Component("tower", TowerConfig, _build, "a tower"),),
    "fusion": (Component("gated", GatedConfig, _build, "gated"), Component("ovi", NoOptions, _build, "as Ovi")),
    "positions": (Component("scaled", RatioConfig, _build, "scaled"), Component("native", NoOptions, _build, "native")),
    "codec": (Component("dct", NoOptions, _build, "DCT"), Component("mel", NoOptions, _build, "mel")),
    "conditioner": (Component("bag", NoOptions, _build, "bag of words"),),
    "dataset": (Component("world", ClipsConfig, _build, "a world"),),
    "checkpoint_format": (Component("official", NoOptions, _build, "official names"),),
    "prompt_set": (Component("held-out", ClipsConfig, _build, "held-out prompts"),),
    "evaluator": (Component("onsets", NoOptions, _build, "onsets"), Component("colours", NoOptions, _build, "colours")),
}


def kit_catalog() -> Catalog:
    """The built-in components and the kit's."""
    found = [Registered(kind, one, PLUGIN) for kind, components in COMPONENTS.items() for one in components]
    own = Plugin("builtins", "ovikit", "0.0")
    for kind, told in KINDS.items():
        if kind in ("attention", "fusion", "schedule", "solver", "guidance", "objective"):
            found += [Registered(kind, one, own) for one in getattr(builtins, told.hook)()]
    return Catalog(found)


GOOD = """\
version: 1
name: good
clip: {duration_s: 2, height_px: 32, width_px: 32, frame_rate_hz: 8.0, sample_rate_hz: 16000}
model:
  video: {type: tower, width: 16}
  audio: {type: tower, width: 16, heads: 2}
  fusion: {type: ovi}
  positions:
    type: scaled
    ratio: 0.19
  codecs:
    video: {type: dct}
    audio: {type: mel}
  conditioner: {type: bag}
sampling:
  schedule: {type: shifted}
  solver: {type: euler}
  guidance: {type: cfg}
  steps: 4
training:
  objective: {type: flow-matching}
  data: {type: world, clips: 8}
  batch_size: 2
  optimizer: {learning_rate: 2e-3, betas: [0.9, 0.95]}
  trainer: {max_steps: 3}
evaluation:
  suite: suites/toy.yaml
"""

SUITE = """\
version: 1
name: toy
profile: toy-v1
prompts: {type: held-out, clips: 4}
evaluators:
  - {type: onsets}
  - {type: colours}
"""


def write(folder: Path, text: str, name: str = "r.yaml") -> Path:
    """The path of a new file with that text, outdented."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path
