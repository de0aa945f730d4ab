"""The training section of a recipe: how the weights are learned. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core.core_schema import ValidationInfo

from ovikit.recipe.lora import Lora
from ovikit.recipe.sections import Of, Section, Seed, Slot


class Rates(Section):
    """Factors of the learning rate."""

    video: PositiveFloat = 1.0
    """Of the video tower."""
    audio: PositiveFloat = 1.0
    """Of the audio tower."""
    fusion: PositiveFloat = 1.0
    """Of the fusion."""


class Optimizer(Section):
    """AdamW with a linear warm-up and a cosine decay."""

    kind: Literal["adamw", "adamw-8bit"] = "adamw"
    """adamw-8bit keeps the running means of large parameters in 8 bits instead of 32 (extra ``quant``)."""
    learning_rate: PositiveFloat
    """Highest learning rate, reached after the warm-up."""
    rates: Rates = Rates()
    """Factors of it for the parts of the model: those who fine-tune Ovi found that its audio learns more slowly."""
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
    on: Literal["device", "host"] = "device"
    """Where the average is kept; host: in the memory of the machine, at the cost of a copy of the weights a step."""


class Trainer(Section):
    """The part of Lightning's Trainer that a recipe may set."""

    max_steps: PositiveInt
    """Optimizer steps of the whole run."""
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "auto"
    """Kind of device to train on."""
    devices: PositiveInt = 1
    """Number of devices of a machine; torchrun and SLURM say so themselves."""
    nodes: PositiveInt = 1
    """Number of machines; torchrun and SLURM say so themselves."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: each device has the whole model and computes its share of a step's micro-batches; fsdp: weights, gradients
    and the optimizer's states are shared out as well (FSDP2); auto: ddp where there are several devices."""
    sequence: PositiveInt = 1
    """Devices that share the tokens of a clip: so many neighbouring ones compute a micro-batch together, and each keeps
    its share of the activations."""
    checkpoints: Literal["whole", "sharded"] = "whole"
    """With fsdp: checkpoints of one file, gathered in the memory of the first machine; or folders to which each device
    writes its share. Either is gone on with on any number of devices."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true"
    """Number format of weights and activations, in Lightning's words."""
    gradient_clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient; null: not clipped."""
    log_every_steps: PositiveInt = 10
    """Steps between two rows of metrics.csv."""
    checkpoint_every_steps: PositiveInt = 500
    """Steps between two checkpoints."""
    keep_checkpoints: PositiveInt | None = None
    """How many checkpoints stay, the newest; null: all."""
    activation_checkpointing: bool = False
    """Layers keep nothing but their inputs, and are computed again in the backward: far less memory, a third more
    work."""
    compile: bool = False
    """Compile the layers with torch.compile."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(default=(), strict=False)
    """Where rows of numbers go beside metrics.csv (extra ``loggers``)."""
    workers: NonNegativeInt = 0
    """Processes that prepare batches; 0: the training process itself."""


class Validation(Section):
    """Clips made and scored while training goes on. None of it changes what is trained."""

    every_steps: PositiveInt
    """Steps between two validations; the last step has one, too."""
    suite: str | None = None
    """The suite file; a relative path starts from the recipe's folder; null: the one of ``evaluation``."""
    prompts: PositiveInt | None = None
    """How many of the suite's prompts, from the first on; null: all."""
    steps: PositiveInt | None = None
    """Solver steps; null: as ``sampling`` has it."""


class Initial(Section):
    """Where a part of the model has its first weights from."""

    part: Literal["video", "audio", "fusion"]
    """A tower, or what lies between the two."""
    path: str = Field(min_length=1)
    """Folder of a training run, or a weights file under ovikit's names or in a format that a plugin recognises. What
    else it holds is left."""


Probability = Annotated[float, Field(ge=0, le=1)]


class ModalityDropout(Section):
    """How often one modality of a clip is given, without noise, and the other is learned from it."""

    audio_from_video: Probability = 0.0
    """Probability that a clip's video is given and only its audio is learned."""
    video_from_audio: Probability = 0.0
    """Probability that a clip's audio is given and only its video is learned."""

    @property
    def any(self) -> bool:
        return self.audio_from_video > 0 or self.video_from_audio > 0

    @model_validator(mode="after")
    def _leaves_something(self) -> ModalityDropout:
        if (total := self.audio_from_video + self.video_from_audio) > 1 + 1e-9:
            raise ValueError(f"audio_from_video and video_from_audio add up to {total:g}, which is more than 1")
        return self


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
    """Clips of a micro-batch: what one device computes at a time."""
    micro_batches: PositiveInt = 1
    """Micro-batches of an optimizer step, shared out over the devices; each adds up the gradients of its share. The
    same number gives the same training on any number of devices that divides it."""
    text_dropout: Probability = 0.0
    """Probability that a clip is trained without its prompt."""
    first_frame: Probability = 0.0
    """Probability that a clip's first frame is given: its tokens have no noise, and are not learned."""
    same_noise: bool = False
    """Video and audio noise of a clip begin with the same numbers, as in sampling with same_noise_seed; false: they are
    independent, as Ovi is trained."""
    modality_dropout: ModalityDropout = ModalityDropout()
    """How often one modality is given and only the other is learned; zeros: both are always learned."""
    initial: tuple[Initial, ...] = Field(default=(), strict=False)
    """Weights that parts of the model start from; the other parts start as ``model`` says."""
    lora: Lora | None = None
    """Adapters that are trained in place of the model; null: the model itself is."""
    optimizer: Optimizer
    """Learning rate and its course."""
    freeze: tuple[str, ...] = Field(default=(), strict=False)
    """Glob patterns over parameter names that are not trained."""
    frozen: Literal["float32", "bfloat16"] = "float32"
    """Format in which matrices that are not trained are kept; bfloat16 goes with precision bf16-mixed, which computes
    in it anyway, and takes half the memory."""
    ema: Ema | None = None
    """Average of the weights kept beside them; null: none."""
    validation: Validation | None = None
    """Clips made and scored on the way; null: none."""
    trainer: Trainer
    """Length of the run, device and precision."""

    @model_validator(mode="after")
    def _frozen_as_computed(self) -> Training:
        if self.frozen == "bfloat16" and self.trainer.precision != "bf16-mixed":
            raise ValueError(f"frozen: bfloat16 needs trainer.precision bf16-mixed, not {self.trainer.precision}")
        return self

    @model_validator(mode="after")
    def _adapters_have_one_base(self) -> Training:
        if self.lora is not None and self.initial:
            raise ValueError("training.lora adapts model.checkpoint: it takes no training.initial")
        return self

    @field_validator("initial")
    @classmethod
    def _names_a_part_once(cls, initial: tuple[Initial, ...]) -> tuple[Initial, ...]:
        parts = [one.part for one in initial]
        for part in parts:
            if parts.count(part) > 1:
                raise ValueError(f"the {part} part is named twice")
        return initial

    @field_validator("first_frame")
    @classmethod
    def _has_pictures(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("stage", "joint") == "audio":
            raise ValueError("a clip of sound alone has no first frame")
        return value

    @field_validator("same_noise", "modality_dropout")
    @classmethod
    def _has_both(cls, value: bool | ModalityDropout, info: ValidationInfo) -> bool | ModalityDropout:
        """Refuses a choice that needs both modalities in a stage that trains one."""
        stage = info.data.get("stage", "joint")
        chosen = value.any if isinstance(value, ModalityDropout) else value
        if stage != "joint" and chosen:
            raise ValueError(f"needs both modalities, but training.stage is '{stage}'")
        return value
