"""The shape of a recipe and of an evaluation suite. Torch-free.

Slots are filled by ``ovikit/recipe/validate.py``, which knows the catalog; everything else is validated here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

Modality = Literal["video", "audio"]
VERSION = 1
Seed = Annotated[int, Field(ge=0, lt=2**62)]
"""What generators can be seeded with, and room above for a run that counts on from it."""


@dataclass(frozen=True)
class Slot:
    """A filled place of a recipe: the component's name and its validated options."""

    kind: str
    type: str
    config: BaseModel

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its value, defaults included, as plain JSON values."""
        return self.config.model_dump(mode="json")

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, **self.options}


@dataclass(frozen=True)
class CheckpointSlot(Slot):
    """A checkpoint format, and the weight file to read with it."""

    path: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "path": self.path, **self.options}


@dataclass(frozen=True)
class Of:
    """Marks a field as a slot of ``kind``. ``default``: what fills it where a recipe leaves it out."""

    kind: str
    default: Mapping[str, Any] | None = field(default=None)


class Section(BaseModel):
    """Base of a recipe's sections: unknown keys refused, values never coerced, frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """Every field with its value, defaults included, as plain JSON values."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


def _plain(value: object) -> Any:
    if isinstance(value, (Section, Slot)):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in cast(tuple[object, ...], value)]
    return str(value) if isinstance(value, Path) else value


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


class Optimizer(Section):
    """AdamW with a linear warm-up and a cosine decay."""

    learning_rate: PositiveFloat
    """Highest learning rate, reached after the warm-up."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.9, 0.999), strict=False
    )
    """Decay of the running mean and of the running square of the gradient."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of the update."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay; one-dimensional parameters are exempt."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises from 0."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the last step, as a fraction of the highest."""


class Ema(Section):
    """An exponential moving average of the weights."""

    decay: Annotated[float, Field(gt=0, lt=1)]
    """Share of the old average that each step keeps."""


class Trainer(Section):
    """The part of Lightning's Trainer that a recipe may set."""

    max_steps: PositiveInt
    """Optimizer steps of the whole run."""
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "auto"
    """Kind of device to train on."""
    devices: PositiveInt = 1
    """Number of devices."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true"
    """Number format of weights and activations, in Lightning's words."""
    gradient_clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient; null: not clipped."""
    log_every_steps: PositiveInt = 10
    """Steps between two rows of metrics.csv."""
    checkpoint_every_steps: PositiveInt = 500
    """Steps between two checkpoints."""
    workers: NonNegativeInt = 0
    """Processes that prepare batches; 0: the training process itself."""


class Training(Section):
    """How the weights are learned."""

    stage: Literal["joint", "audio", "video"] = "joint"
    """Which modalities are trained."""
    seed: Seed = 0
    """Seed of the batches, the noise and the dropped prompts."""
    objective: Annotated[Slot, Of("objective")]
    """What is minimised."""
    data: Annotated[Slot, Of("dataset")]
    """The clips to learn from."""
    batch_size: PositiveInt
    """Clips per optimizer step and device."""
    text_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a clip is trained without its prompt."""
    optimizer: Optimizer
    """Learning rate and its course."""
    freeze: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns over parameter names that are not trained."""
    ema: Ema | None = None
    """Average of the weights kept beside them; null: none."""
    trainer: Trainer
    """Length of the run, device and precision."""


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
        """sha256 (hex) of the canonical JSON of everything but how it is computed (``runtime``) and what is measured
        afterwards (``evaluation``)."""
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
    runtime: Runtime = Runtime()
    """How clips are computed."""
    evaluation: Evaluation | None = None
    """What to measure by default."""

    @model_validator(mode="after")
    def _stage_fits(self) -> Recipe:
        if self.training is not None:
            stage = self.training.stage
            for modality in ("video", "audio") if stage == "joint" else (stage,):
                if modality not in self.model.modalities:
                    raise ValueError(f"training.stage is '{stage}' but model.{modality} is null")
        return self

    def suite_path(self) -> Path | None:
        """The suite file that the recipe names, or None."""
        if self.evaluation is None:
            return None
        return (self.source.parent if self.source else Path()) / self.evaluation.suite


class Suite(Document):
    """What to run and what to measure."""

    profile: str = Field(min_length=1)
    """Name and version of the bundle of metric definitions, as results are labelled."""
    prompts: Annotated[Slot, Of("prompt_set")]
    """The prompts to generate from."""
    evaluators: Annotated[tuple[Slot, ...], Of("evaluator")] = Field(min_length=1, strict=False)
    """The metrics."""


def digest_of(data: Mapping[str, Any]) -> str:
    """Hex sha256 of the canonical JSON of a resolved document, without its ``runtime`` and ``evaluation``."""
    kept = {key: value for key, value in data.items() if key not in ("runtime", "evaluation")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
