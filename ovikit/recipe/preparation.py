"""The preparation section of a recipe: how a folder of media files becomes a dataset of latents. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ovikit.recipe.sections import Of, Section, Slot


class Scenes(Section):
    """Where files are cut, so that no clip has a cut in it."""

    detector: Literal["content", "adaptive", "none"] = "content"
    """PySceneDetect's detectors (extra ``data``). content: a jump in colour and brightness; adaptive: one that stands
    out from its surroundings, for footage that moves fast; none: files are not cut."""
    threshold: PositiveFloat | None = None
    """How large a jump is a cut; null: 27 for content, 3 for adaptive, as PySceneDetect has it."""
    shortest_s: NonNegativeFloat = 0.6
    """Scenes shorter than this are part of the one before."""


class Bucket(Section):
    """A form that clips may have beside the others."""

    duration_s: PositiveFloat
    """Length of a clip in seconds."""
    height_px: PositiveInt
    """Height of the picture in pixels."""
    width_px: PositiveInt
    """Width of the picture in pixels."""


class Preparation(Section):
    """How a folder of media files becomes a dataset."""

    scenes: Scenes = Scenes()
    """Where files are cut."""
    stride_s: PositiveFloat | None = None
    """Seconds from the start of one clip of a scene to the start of the next; null: clips follow each other."""
    per_scene: PositiveInt | None = None
    """Most clips of one scene; null: as many as fit."""
    margins: bool = True
    """Cut off black margins that stay for the whole file."""
    buckets: tuple[Bucket, ...] = Field(default=(), strict=False)
    """Forms of clips, of which each takes the one nearest to its shape and, of those, the longest that fits; empty:
    all have the recipe's own form. Rates are the recipe's."""
    captioner: Annotated[Slot, Of("captioner", default={"type": "sidecar"})]
    """Where prompts come from."""
    filters: Annotated[tuple[Slot, ...], Of("filter")] = Field(default=(), strict=False)
    """What keeps clips out, in this order. Filters after the one that leaves a clip out do not see it."""
    first_frames: bool | None = None
    """Encode the first frame of each clip alone, too; null: where training.first_frame is not 0."""
    latents: Literal["float32", "bfloat16"] = "float32"
    """Format in which latents and prompts are kept."""
    clips_per_shard: PositiveInt = 64
    """Clips of one file of the dataset."""
