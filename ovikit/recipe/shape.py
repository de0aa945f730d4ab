"""Walking the models: which fields are slots, which are sections, what may stand at a path."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ovikit.recipe.sections import CheckpointSlot, Of


def slot_mark(field: FieldInfo) -> Of | None:
    """What makes a field a slot (or a list of slots), or None."""
    return next((mark for mark in field.metadata if isinstance(mark, Of)), None)


def choices(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation: of ``A | None`` (A, None); of ``A`` just (A,)."""
    if get_origin(annotation) is Annotated:
        return choices(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for part in get_args(annotation) for choice in choices(part))
    return (annotation,)


def is_optional(field: FieldInfo) -> bool:
    return type(None) in choices(field.annotation)


def is_list(field: FieldInfo) -> bool:
    return any(get_origin(choice) is tuple for choice in choices(field.annotation))


def is_open_mapping(annotation: Any) -> bool:
    """Whether any key may stand below: a ``dict`` or ``Mapping`` field of a component's options."""
    return any(get_origin(choice) in (dict, Mapping) for choice in choices(annotation))


def own_keys(field: FieldInfo) -> tuple[str, ...]:
    """The keys of a slot that are the recipe's own rather than the component's options."""
    return ("path",) if CheckpointSlot in choices(field.annotation) else ()


def section(field: FieldInfo) -> type[BaseModel] | None:
    """The model below a field, or None."""
    for choice in choices(field.annotation):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def tagged(field: FieldInfo) -> Mapping[str, type[BaseModel]]:
    """The models that may stand in a field's list where a key of theirs tells them apart, by that key's value."""
    found: dict[str, type[BaseModel]] = {}
    lists = [get_args(choice)[0] for choice in choices(field.annotation) if get_origin(choice) is tuple]
    for item in lists:
        marks = get_args(item)[1:] if get_origin(item) is Annotated else ()
        for key in (mark.discriminator for mark in marks if isinstance(mark, FieldInfo)):
            if isinstance(key, str):
                found |= {tag: one for one in choices(item) for tag in get_args(one.model_fields[key].annotation)}
    return found


def without_tags(model: type[BaseModel], keys: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The keys of a document, from those that pydantic gives: it adds the tag of a model that a list chose."""
    here: type[BaseModel] | None = model
    kept: list[str | int] = []
    tags: Mapping[str, type[BaseModel]] = {}
    for key in keys:
        if tags and isinstance(key, str):
            here, tags = tags.get(key), {}
            continue
        kept.append(key)
        field = here.model_fields.get(str(key)) if here is not None else None
        if field is not None:
            here, tags = section(field), tagged(field)
    return tuple(kept)


def fields_at(model: type[BaseModel], keys: tuple[str | int, ...]) -> Mapping[str, FieldInfo]:
    """The fields that a mapping at ``keys`` below a model may have; empty where there is no model. The keys are
    pydantic's, with tags among them."""
    here: type[BaseModel] | None = model
    tags: Mapping[str, type[BaseModel]] = {}
    for key in keys:
        field = here.model_fields.get(str(key)) if here is not None else None
        if field is None and tags:
            here = tags.get(str(key)) if isinstance(key, str) else here
            continue
        here = section(field) if field is not None else here if isinstance(key, int) else None
        tags = tagged(field) if field is not None else tags
    return here.model_fields if here is not None else {}
