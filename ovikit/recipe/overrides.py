"""``path=value`` laid over a document. Only paths that the recipe's models and the components' options have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ovikit.errors import UserError
from ovikit.kernel.catalog import Catalog, UnknownComponentError, suggestion
from ovikit.recipe.document import Keys, Place, Problem, RecipeError, Source, dotted, mapping, read_value
from ovikit.recipe.models import Document
from ovikit.recipe.shape import is_list, is_open_mapping, own_keys, section, slot_mark


def apply_overrides(model: type[Document], source: Source, overrides: Sequence[str], catalog: Catalog) -> None:
    """Changes ``source`` in the order given. UserError for a path that does not exist, naming what does."""
    for override in overrides:
        path, sign, text = override.partition("=")
        keys = _keys(path.strip())
        origin = f"-o {override}"
        if not sign or not keys:
            raise UserError("an override is written path=value, such as sampling.steps=20", origin)
        place = Place(origin, 0)
        _Walk(source, catalog, place).enter(model, keys)
        _set(source, keys, read_value(text, origin), place)


def _keys(path: str) -> Keys:
    return tuple(int(key) if key.isdecimal() else key for key in path.split(".")) if path else ()


def _set(source: Source, keys: Keys, value: Any, place: Place) -> None:
    here: Any = source.data
    for key in keys[:-1]:
        if isinstance(here, list):
            here = cast(list[Any], here)[int(key)]
            continue
        if mapping(here.get(key)) is None and not isinstance(here.get(key), list):
            here[key] = {}
        here = here[key]
    last = keys[-1]
    if last == "type" and value != here.get("type"):
        _forget(source, keys[:-1])
        here.clear()
    _forget(source, keys)
    here[last] = value
    for length in range(1, len(keys) + 1):
        source.places.setdefault(keys[:length], place)


def _forget(source: Source, keys: Keys) -> None:
    for one in [one for one in source.places if one[: len(keys)] == keys]:
        del source.places[one]


class _Walk:
    """Follows a path through the models, and through the options of whatever component fills a slot just now."""

    def __init__(self, source: Source, catalog: Catalog, place: Place) -> None:
        self.source, self.catalog, self.place = source, catalog, place

    def enter(self, model: type[BaseModel], keys: Keys) -> None:
        """Raises RecipeError unless ``keys`` lead somewhere; a slot left to its default is written out on the way."""
        self._fields(model.model_fields, (), keys)

    def _fields(self, fields: Mapping[str, FieldInfo], done: Keys, rest: Keys, extra: tuple[str, ...] = ()) -> None:
        """Refuses ``rest`` unless it leads somewhere below a mapping with these fields."""
        key, after = rest[0], rest[1:]
        if key not in fields:
            raise self._error((*done, key), f"there is no such option; {suggestion(str(key), [*fields, *extra])}")
        field, here = fields[str(key)], (*done, key)
        if (mark := slot_mark(field)) is not None:
            self._slot(mark.kind, field, here, after)
        elif after and (below := section(field)) is not None:
            self._fields(below.model_fields, here, after)
        elif after and not is_open_mapping(field.annotation):
            raise self._error((*here, *after), f"there is nothing below {dotted(here)}")

    def _slot(self, kind: str, field: FieldInfo, here: Keys, rest: Keys) -> None:
        if rest and is_list(field):
            items = self._value(here)
            size = len(cast(list[Any], items)) if isinstance(items, list) else 0
            if not isinstance(rest[0], int) or rest[0] >= size:
                raise self._error((*here, rest[0]), f"there is no such item; {dotted(here)} has {size}, counted from 0")
            here, rest = (*here, rest[0]), rest[1:]
        if not rest or rest == ("type",):
            return
        filled, mark = mapping(self._value(here)), slot_mark(field)
        if filled is None and mark is not None and mark.default is not None:
            _set(self.source, here, dict(mark.default), self.place)
            filled = mapping(self._value(here))
        name = (filled or {}).get("type")
        if not isinstance(name, str):
            raise self._error((*here, *rest), f"{dotted(here)} is empty; set {dotted(here)}.type first")
        if rest[0] in own_keys(field):
            return
        try:
            config = self.catalog.find(kind, name).component.config
        except UnknownComponentError as error:
            raise self._error((*here, "type"), error.what) from None
        self._fields(config.model_fields, here, rest, ("type", *own_keys(field)))

    def _value(self, keys: Keys) -> Any:
        here: Any = self.source.data
        for key in keys:
            if isinstance(here, list):
                here = cast(list[Any], here)[int(key)]
            else:
                here = (mapping(here) or {}).get(str(key))
        return here

    def _error(self, keys: Keys, message: str) -> RecipeError:
        return RecipeError([Problem(keys, message, self.place)])
