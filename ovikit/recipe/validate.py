"""Plain data to a validated document: slots filled from the catalog, every problem collected with its place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ovikit.kernel.catalog import Catalog, UnknownComponentError, suggestion
from ovikit.recipe.document import Keys, Problem, RecipeError, Source, describe, mapping
from ovikit.recipe.models import Document
from ovikit.recipe.sections import CheckpointSlot, Slot
from ovikit.recipe.shape import fields_at, is_list, is_optional, own_keys, section, slot_mark, without_tags

D = TypeVar("D", bound=Document)
# What pydantic's messages begin with; ours begin with the path.
_SUBJECTS = ("Input ", "String ", "Tuple ", "List ")


def validate(model: type[D], source: Source, catalog: Catalog) -> D:
    """The document that ``source`` describes. RecipeError with every problem found."""
    filler = _Filler(source, catalog)
    data = filler.fill(model, source.data, ())
    found: D | None = None
    try:
        found = model.model_validate(data)
    except ValidationError as error:
        known = [problem.keys for problem in filler.problems]
        filler.report(model, (), (one for one in error.errors() if not _covered(one["loc"], known)))
    if found is None or filler.problems:
        raise RecipeError(sorted(filler.problems, key=lambda one: (one.place.file, one.place.line)))
    return found


def _covered(keys: Keys, known: Iterable[Keys]) -> bool:
    """Whether a problem at or below ``keys`` was already reported."""
    return any(one[: len(keys)] == keys for one in known)


class _Filler:
    def __init__(self, source: Source, catalog: Catalog) -> None:
        self.source, self.catalog = source, catalog
        self.problems: list[Problem] = []

    def refuse(self, keys: Keys, message: str) -> None:
        self.problems.append(Problem(keys, message, self.source.place(keys)))

    def fill(self, model: type[BaseModel], data: dict[str, Any], keys: Keys) -> dict[str, Any]:
        """The data with a Slot in the place of each slot's mapping; what is wrong elsewhere stays as it is."""
        filled = dict(data)
        for name, field in model.model_fields.items():
            mark, below, here = slot_mark(field), section(field), (*keys, name)
            if mark is not None:
                if name in data or mark.default is not None:
                    raw = data[name] if name in data else dict(mark.default or {})
                    filled[name] = self._slots(mark.kind, field, raw, here)
            elif below is not None and (inner := mapping(data.get(name))) is not None:
                filled[name] = self.fill(below, inner, here)
        return filled

    def _slots(self, kind: str, field: FieldInfo, raw: Any, keys: Keys) -> Any:
        if is_list(field) and isinstance(raw, list):
            return tuple(self._slot(kind, field, item, (*keys, i)) for i, item in enumerate(cast(list[Any], raw)))
        if is_list(field):
            exists = suggestion("", self.catalog.of(kind))
            self.refuse(keys, f"should be a list of mappings with a type, not {describe(raw)}; {exists}")
            return None
        return None if raw is None and is_optional(field) else self._slot(kind, field, raw, keys)

    def _slot(self, kind: str, field: FieldInfo, raw: Any, keys: Keys) -> Slot | None:
        exists = suggestion("", self.catalog.of(kind))
        options = dict(mapping(raw) or {})
        if mapping(raw) is None:
            self.refuse(keys, f"should be a mapping with a type, such as {{type: NAME}}, not {describe(raw)}; {exists}")
            return None
        name = options.pop("type", None)
        if not isinstance(name, str):
            told = "type is missing" if name is None else f"type should be a name, not {describe(name)}"
            self.refuse(keys, f"{told}; {exists}")
            return None
        try:
            config = self.catalog.find(kind, name).component.config
        except UnknownComponentError as error:
            self.refuse((*keys, "type"), error.what)
            return None
        own = {key: options.pop(key) for key in own_keys(field) if key in options}
        try:
            # As JSON, because strict mode takes no list for a tuple otherwise.
            validated = config.model_validate_json(json.dumps(options), strict=True)
        except ValidationError as error:
            self.report(config, keys, error.errors(), extra=("type", *own_keys(field)))
            return None
        if not own_keys(field):
            return Slot(kind, name, validated)
        return self._checkpoint(name, validated, own.get("path"), keys)

    def _checkpoint(self, name: str, config: BaseModel, path: Any, keys: Keys) -> Slot | None:
        if not isinstance(path, str) or not path:
            self.refuse(keys, "path is missing: the weight file to read")
            return None
        return CheckpointSlot("checkpoint_format", name, config, path)

    def report(
        self, model: type[BaseModel], at: Keys, errors: Iterable[ErrorDetails], extra: tuple[str, ...] = ()
    ) -> None:
        """Notes pydantic's errors about a model whose data stands at ``at``."""
        for error in errors:
            keys = (*at, *without_tags(model, error["loc"]))
            fields = fields_at(model, error["loc"][:-1])
            self.refuse(keys, self._explain(error, fields, extra if len(error["loc"]) == 1 else ()))

    def _explain(self, error: ErrorDetails, fields: Mapping[str, FieldInfo], extra: tuple[str, ...]) -> str:
        kind, told = error["type"], error["msg"]
        if kind == "missing":
            field = fields.get(str(error["loc"][-1]))
            mark = slot_mark(field) if field is not None else None
            return f"is missing; {suggestion('', self.catalog.of(mark.kind))}" if mark else "is missing"
        if kind == "extra_forbidden":
            return f"unknown key; {suggestion(str(error['loc'][-1]), [*fields, *extra])}"
        if kind in ("model_type", "model_attributes_type", "dict_type", "is_instance_of", "dataclass_type"):
            return f"should be a mapping, not {describe(error['input'])}"
        if kind in ("value_error", "assertion_error"):
            return told.partition(", ")[2]
        if kind in ("union_tag_not_found", "union_tag_invalid"):
            context: Mapping[str, str] = error.get("ctx", {})
            key = context["discriminator"].strip("'")
            wrong = kind == "union_tag_invalid"
            return f"{key} should be one of {context['expected_tags']}" if wrong else f"{key} is missing"
        if kind in ("tuple_type", "list_type"):
            return f"should be a list, not {describe(error['input'])}"
        for subject in _SUBJECTS:
            told = told.removeprefix(subject)
        if kind in ("too_short", "too_long"):
            return told.replace(" after validation", "")
        return f"{told}, not {describe(error['input'])}"
