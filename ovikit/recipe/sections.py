"""What the sections of a recipe are made of: slots, and models that refuse what they do not know. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

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
