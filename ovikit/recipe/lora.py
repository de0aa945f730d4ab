"""The part of a recipe that trains adapters instead of the model. Torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from ovikit.recipe.sections import Section


class Ranks(Section):
    """Widths of the adapters."""

    video: NonNegativeInt = 16
    """Of those in the video tower; 0: it gets none."""
    audio: NonNegativeInt = 16
    """Of those in the audio tower; 0: it gets none."""
    fusion: NonNegativeInt = 16
    """Of those in the fusion; 0: it gets none."""

    @model_validator(mode="after")
    def _has_some(self) -> Ranks:
        if not (self.video or self.audio or self.fusion):
            raise ValueError("every rank is 0: there is nothing to train")
        return self


class Lora(Section):
    """Low-rank adapters: the model stays as it is, and its linear layers learn small corrections."""

    rank: Ranks = Ranks()
    """Widths of the adapters, by the part of the model that they are in."""
    alpha: PositiveFloat = 16.0
    """Their strength: what an adapter adds is multiplied by alpha / rank."""
    targets: tuple[str, ...] = Field(
        default=("*.self_attn.[qkvo]", "*.context_attn.[qkvo]", "*.fusion.*.[qkvo]"), min_length=1, strict=False
    )
    """Glob patterns over the names of linear layers."""
