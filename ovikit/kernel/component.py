"""What a plugin registers: a name, the options it takes, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every component's options: unknown keys refused, values never coerced, instances frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class NoOptions(Config):
    """For components without options."""


@dataclass(frozen=True, slots=True)
class Component:
    """One thing that a recipe can name.

    name:    as written behind ``type:``, in lower case with dashes
    config:  pydantic class of its options; each field's docstring is its help text
    build:   ``build(config, **context)``; the keywords of each kind are in ``ovikit/kernel/kinds.py``.
             It imports torch and the component's own code inside, so that listing plugins stays instant.
    summary: one line for ``ovikit plugins``
    """

    name: str
    config: type[BaseModel]
    build: Callable[..., Any]
    summary: str
