"""The shape of a recipe and of an evaluation suite. Torch-free.

Slots are filled by ``ovikit/recipe/validate.py``, which knows the catalog; everything else is validated here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr, field_validator, model_validator

from ovikit.recipe.preparation import Preparation
from ovikit.recipe.sections import CheckpointSlot, Of, Section, Seed, Slot
from ovikit.recipe.training import Training

Modality = Literal["video", "audio"]
VERSION = 1
PLACEMENT = ("devices", "nodes", "strategy", "sequence", "checkpoints", "keep_checkpoints", "workers", "loggers")
"""Of ``training.trainer``: what may change when a run is gone on with."""


class ClipForm(Section):
    """The form of every clip of a recipe."""

    duration_s: PositiveFloat
    """Length of a clip in seconds."""
    height_px: PositiveInt
    """Height of the picture in pixels."""
    width_px: PositiveInt
    """Width of the picture in pixels."""
    frame_rate_hz: PositiveFloat
    """Pictures per second."""
    sample_rate_hz: PositiveInt
    """Sound samples per second."""
    area_px: PositiveInt | None = None
    """Pixels of a picture (height times width) that a given size, or the shape of a given first frame, is brought to;
    null: this recipe makes clips of its own size, and sizes that are given are taken as they are."""


class Codecs(Section):
    """Pixels and waveform to latents and back."""

    video: Annotated[Slot | None, Of("codec")] = None
    """Codec of the picture; needed where there is a video tower."""
    audio: Annotated[Slot | None, Of("codec")] = None
    """Codec of the sound; needed where there is an audio tower."""


class Precision(Section):
    """Number formats of the joint network."""

    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Format of weights, matrix products and attention."""
    policy: Literal["clean", "official"] = "clean"
    """official: rounded wherever the released code rounds; clean: norms, modulation and tokens stay in float32."""


class Rotated(Section):
    """Which attentions turn by the positions, beside the one over a stream's own tokens."""

    fusion: bool = True
    """The attention over the other modality."""
    text: bool = False
    """The attention over the text: its words count as steps that last the whole clip together, and tokens turn by their
    time alone. No published model does so."""


class Model(Section):
    """The joint network and what stands between it and files and prompts."""

    video: Annotated[Slot | None, Of("backbone")] = None
    """The video tower; null: the model has none."""
    audio: Annotated[Slot | None, Of("backbone")] = None
    """The audio tower; null: the model has none."""
    fusion: Annotated[Slot, Of("fusion")]
    """How the two towers meet."""
    positions: Annotated[Slot, Of("positions")]
    """Rotation angles of each token."""
    rotated: Rotated = Rotated()
    """Which attentions turn by them."""
    codecs: Codecs
    """Pixels and waveform to latents and back."""
    conditioner: Annotated[Slot, Of("conditioner")]
    """Prompt to context tokens."""
    attention: Annotated[Slot, Of("attention", default={"type": "sdpa"})]
    """What computes attention."""
    seed: Seed = 0
    """Seed of the initial weights."""
    precision: Precision = Precision()
    """Number formats."""
    quantization: Literal["none", "int8", "fp8"] = "none"
    """Format that the large matrices of the towers are kept in."""
    checkpoint: Annotated[CheckpointSlot | None, Of("checkpoint_format")] = None
    """Weights to start from; null: drawn from the seed."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that have a tower, video first."""
        named: tuple[tuple[Modality, Slot | None], ...] = (("video", self.video), ("audio", self.audio))
        return tuple(modality for modality, slot in named if slot is not None)

    @model_validator(mode="after")
    def _towers_fit(self) -> Model:
        if not self.modalities:
            raise ValueError("a model needs a video tower, an audio tower, or both")
        for modality in self.modalities:
            if getattr(self.codecs, modality) is None:
                raise ValueError(f"there is a {modality} tower but codecs.{modality} is missing")
        if len(self.modalities) == 1 and self.fusion.type != "none":
            raise ValueError(f"fusion '{self.fusion.type}' needs two towers; with one, write fusion: {{type: none}}")
        return self


class Prompts(Section):
    """A text for each modality."""

    video: str = ""
    """Text for the video tower."""
    audio: str = ""
    """Text for the audio tower."""


class Sampling(Section):
    """How noise becomes a clip."""

    schedule: Annotated[Slot, Of("schedule")]
    """The noise levels."""
    solver: Annotated[Slot, Of("solver")]
    """The integrator."""
    guidance: Annotated[Slot, Of("guidance")]
    """Which network passes a step makes, and how they combine."""
    steps: PositiveInt
    """Number of solver steps."""
    seed: Seed = 0
    """Seed of the noise that sampling starts from."""
    same_noise_seed: bool = True
    """Draw video and audio noise from one seed, as the released Ovi does; false: from two."""
    negative: Prompts = Prompts()
    """What guidance steers away from, per modality."""


class Memory(Section):
    """Where the weights lie while clips are made."""

    plan: Literal["auto", "full", "offload-components", "stream-layers"] = "auto"
    """full: all but the text encoder stays on the device; offload-components: only the part at work is there;
    stream-layers: the network's layers come one by one from host memory; auto: the first of these that fits."""
    budget_gb: PositiveFloat | None = None
    """Device memory to stay within, in GB (1e9 bytes); null: what the device has free."""


class Parallel(Section):
    """Processes that share the work on one clip. The rest of what torchrun starts shares the clips."""

    sequence: PositiveInt = 1
    """Processes that share the tokens of a clip; they divide the heads among them."""
    guidance: Literal[1, 2] = 1
    """2: the prompt pass and the negative pass run side by side."""


class Runtime(Section):
    """How a clip is computed, not what: none of it changes a clip beyond rounding, so the digest leaves it out."""

    memory: Memory = Memory()
    """Where the weights lie."""
    guidance: Literal["auto", "batched", "in-turn"] = "auto"
    """Whether the passes of a step run as one batch; auto: as the memory plan has it."""
    compile: bool = False
    """Compile the layers with torch.compile: slower to start, faster from then on."""
    parallel: Parallel = Parallel()
    """Processes that work on one clip."""


class Evaluation(Section):
    """What to measure by default."""

    suite: str
    """The suite file; a relative path starts from the recipe's folder."""


class Document(Section):
    """What recipes and suites share."""

    version: Literal[1]
    """Version of the recipe format."""
    name: str = Field(min_length=1)
    """What the experiment is called; names the folder of its runs."""
    _source: Path | None = PrivateAttr(default=None)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name.startswith(".") or name != name.strip() or not name.isprintable() or set(name) & set("/\\"):
            raise ValueError("should be able to name a folder: no '/' or '\\', and no dot or space around it")
        return name

    def read_from(self, source: Path) -> Self:
        """This document, knowing the file that it was read from."""
        self._source = source
        return self

    @property
    def source(self) -> Path | None:
        """The file this was read from."""
        return self._source

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of everything but how it is computed (``runtime``), what is measured
        afterwards (``evaluation``) and how datasets are made (``preparation``), and but for ``PLACEMENT``."""
        return digest_of(self.to_dict())


class Recipe(Document):
    """An experiment."""

    clip: ClipForm
    """The form of every clip."""
    model: Model
    """The joint network."""
    sampling: Sampling
    """How noise becomes a clip."""
    training: Training | None = None
    """How the weights are learned; null: this recipe does not train."""
    preparation: Preparation | None = None
    """How a dataset is prepared; null: as the defaults have it."""
    runtime: Runtime = Runtime()
    """How clips are computed."""
    evaluation: Evaluation | None = None
    """What to measure by default."""

    @model_validator(mode="after")
    def _validation_has_a_suite(self) -> Recipe:
        chosen = self.training.validation if self.training is not None else None
        if chosen is not None and chosen.suite is None and self.evaluation is None:
            raise ValueError("training.validation names no suite, and there is no evaluation.suite either")
        return self

    @model_validator(mode="after")
    def _stage_fits(self) -> Recipe:
        if self.training is not None:
            if self.training.lora is not None and self.model.checkpoint is None:
                raise ValueError("training.lora needs weights to adapt, but model.checkpoint is null")
            stage = self.training.stage
            for modality in ("video", "audio") if stage == "joint" else (stage,):
                if modality not in self.model.modalities:
                    raise ValueError(f"training.stage is '{stage}' but model.{modality} is null")
        return self

    def suite_path(self) -> Path | None:
        """The suite file that the recipe names, or None."""
        return None if self.evaluation is None else self._beside(self.evaluation.suite)

    def validation_suite(self) -> Path | None:
        """The suite file that the recipe is validated with while it trains, or None."""
        chosen = self.training.validation if self.training is not None else None
        if chosen is None:
            return None
        return self.suite_path() if chosen.suite is None else self._beside(chosen.suite)

    def _beside(self, path: str) -> Path:
        return (self.source.parent if self.source else Path()) / path


class PromptFiles(Section):
    """A published set of prompts: what it is, and how its files are known again."""

    name: str = Field(min_length=1)
    revision: str = Field(min_length=1)
    """Version of the set, as its publisher calls it."""
    licence: str = Field(min_length=1)
    source: str = Field(min_length=1)
    """Where it is published."""
    items: PositiveInt
    """How many there are."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of its prompts and files, as results tell it; null: not known, results tell what was there."""


class Suite(Document):
    """What to run and what to measure."""

    profile: str = Field(min_length=1)
    """Name and version of the bundle of metric definitions, as results are labelled."""
    set: PromptFiles | None = None
    """The published set that the prompts are; null: none. Its document is in evals/sets."""
    prompts: Annotated[Slot | None, Of("prompt_set")] = None
    """The prompts to generate from; null: none, the clips that are there are measured."""
    evaluators: Annotated[tuple[Slot, ...], Of("evaluator")] = Field(min_length=1, strict=False)
    """The metrics."""
    overall: Annotated[Slot | None, Of("overall")] = None
    """One score of the metrics; null: none."""


class CascadeSide(Section):
    """Where one modality of a cascade comes from."""

    folder: str = Field(min_length=1)
    """Folder of its files, ID.mp4 (or .mkv, .mov, .webm; for sound .wav, .flac, .m4a, .mp3, too); starts from the
    current folder."""
    model: str = Field(min_length=1)
    """What made them, as results name it."""
    revision: str | None = None
    """Version of that; null: not told."""


class CascadeSides(Section):
    """A video model and an audio model, one after the other."""

    video: CascadeSide
    audio: CascadeSide


class Cascade(Document):
    """The baseline that joint models are set against: pictures of one model with sounds of another."""

    cascade: CascadeSides
    """The two sides."""

    @property
    def digest(self) -> str:
        """Of the models, wherever their files lie."""
        data = self.to_dict()
        return digest_of({**data, "cascade": {side: {**one, "folder": ""} for side, one in data["cascade"].items()}})


def digest_of(data: Mapping[str, Any]) -> str:
    """Hex sha256 of the canonical JSON of a resolved document, without what ``Document.digest`` leaves out."""
    kept = {key: value for key, value in data.items() if key not in ("runtime", "evaluation", "preparation")}
    training = kept.get("training")
    if training is not None:  # nor do the devices that share out a step change it
        trainer = {key: value for key, value in training["trainer"].items() if key not in PLACEMENT}
        kept["training"] = {key: value for key, value in training.items() if key != "validation"} | {"trainer": trainer}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
