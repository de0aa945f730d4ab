"""JSON schema of recipes and suites as the installed plugins make them, for editors."""

from __future__ import annotations

from typing import Any

from annotated_types import MinLen
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from ovikit.kernel.catalog import Catalog, Registered
from ovikit.recipe.models import Document, Recipe, Suite
from ovikit.recipe.shape import is_list, is_optional, own_keys, section, slot_mark

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def document_schema(catalog: Catalog, model: type[Document] = Recipe) -> Schema:
    """The JSON schema of a recipe (or suite) file: each slot is one of the catalog's components, told by ``type``.

    A file that ``extends`` another may leave out, at any depth, what its parent has.
    """
    whole, partial = _Writer(catalog, whole=True), _Writer(catalog, whole=False)
    definitions = {"whole": whole.document(model), "partial": partial.document(model)}
    return {
        "$schema": DIALECT,
        "title": f"ovikit {model.__name__.lower()}",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/partial"},
        "else": {"$ref": "#/$defs/whole"},
        "$defs": {**definitions, **whole.definitions, **partial.definitions},
    }


class _Writer:
    """Writes the schema of whole documents, or of documents that complete a parent."""

    def __init__(self, catalog: Catalog, whole: bool) -> None:
        self.catalog, self.whole = catalog, whole
        self.definitions: dict[str, Schema] = {}

    def document(self, model: type[Document]) -> Schema:
        schema = self._section(model)
        schema["properties"] |= {
            "extends": {"type": "string", "description": "The file that this one builds on, relative to this file."},
            "lock": {"type": "object", "description": "Written by 'ovikit recipe lock'."},
        }
        if model is Suite:
            changes = {name: one for name, one in schema["properties"].items() if name in ("evaluators", "overall")}
            schema["properties"]["profiles"] = {
                "type": "object",
                "description": "Further profiles, chosen by --profile: by name, what is other than in this one.",
                "additionalProperties": {"type": "object", "properties": changes, "additionalProperties": False},
            }
        # A name is never inherited.
        return schema if self.whole else {**schema, "required": ["name"]}

    def _required(self, names: list[str]) -> Schema:
        return {"required": names} if self.whole and names else {}

    def _section(self, model: type[BaseModel]) -> Schema:
        plain = self._plain(model)
        fields = model.model_fields
        return {
            "type": "object",
            "description": (model.__doc__ or "").strip(),
            "properties": {name: self._field(name, field, plain) for name, field in fields.items()},
            "additionalProperties": False,
            **self._required([name for name, field in fields.items() if _is_required(field)]),
        }

    def _field(self, name: str, field: FieldInfo, plain: dict[str, Schema]) -> Schema:
        mark, below = slot_mark(field), section(field)
        if mark is not None:
            schema = self._slot(mark.kind, own_keys(field))
            if is_list(field):
                least = next((mark.min_length for mark in field.metadata if isinstance(mark, MinLen)), 0)
                schema = {"type": "array", "items": schema, "minItems": least}
        elif below is not None:
            schema = self._section(below)
        else:
            return plain[name]
        if is_optional(field):
            schema = {"anyOf": [schema, {"type": "null"}]}
        return {**schema, "description": field.description or ""}

    def _plain(self, model: type[BaseModel]) -> dict[str, Schema]:
        """Schemas of the fields that hold neither slots nor sections, as pydantic writes them."""
        kept: Any = {
            name: (field.annotation, field)
            for name, field in model.model_fields.items()
            if slot_mark(field) is None and section(field) is None
        }
        found = create_model(model.__name__, **kept).model_json_schema()
        # what lists hold: a list replaces its parent's, so that its items are whole in either kind of document
        self.definitions |= found.get("$defs", {})
        return found.get("properties", {})

    def _slot(self, kind: str, own: tuple[str, ...]) -> Schema:
        """A reference to the kind's definition, which is made on first use."""
        key = f"{kind}-slot" if self.whole else f"{kind}-slot-partial"
        if key not in self.definitions:
            components = [self._component(one, own) for one in self.catalog.of(kind).values()]
            self.definitions[key] = {"oneOf" if self.whole else "anyOf": components} if components else {"not": {}}
        return {"$ref": f"#/$defs/{key}"}

    def _component(self, one: Registered, own: tuple[str, ...]) -> Schema:
        config = one.component.config
        prefix = f"{one.kind}-{one.name}-{'whole' if self.whole else 'partial'}."
        _, found = models_json_schema([(config, "validation")], ref_template=f"#/$defs/{prefix}{{model}}")
        nested: dict[str, Schema] = dict(found["$defs"])
        schema = {key: value for key, value in nested.pop(config.__name__).items() if key != "required"}
        for name, below in nested.items():
            kept = below if self.whole else {key: value for key, value in below.items() if key != "required"}
            self.definitions[prefix + name] = kept
        own_properties = {"type": {"const": one.name}, **{key: {"type": "string"} for key in own}}
        required = [name for name, field in config.model_fields.items() if field.is_required()]
        return {
            **schema,
            "title": f"{one.kind} {one.name}",
            "description": one.component.summary,
            "properties": own_properties | schema.get("properties", {}),
            "additionalProperties": False,
            **self._required(["type", *own, *required]),
        }


def _is_required(field: FieldInfo) -> bool:
    mark = slot_mark(field)
    return field.is_required() and (mark is None or mark.default is None)
