"""JSON schema of recipes and suites as the installed plugins make them, for editors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from ovikit.kernel.catalog import Catalog, Registered
from ovikit.recipe.models import Document, Recipe
from ovikit.recipe.shape import is_list, is_optional, own_keys, section, slot_mark

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def document_schema(catalog: Catalog, model: type[Document] = Recipe) -> Schema:
    """The JSON schema of a recipe (or suite) file: each slot one of the catalog's components, told apart by ``type``.

    It describes a resolved document; a file that has ``extends`` may leave anything out.
    """
    definitions: dict[str, Schema] = {}
    schema = _section(model, catalog, definitions)
    schema["properties"]["extends"] = {"type": "string", "description": "The recipe that this one builds on."}
    schema["properties"]["lock"] = {"type": "object", "description": "Written by 'ovikit recipe lock'."}
    required = schema.pop("required")
    schema |= {"if": {"required": ["extends"]}, "then": {"required": ["name"]}, "else": {"required": required}}
    return {"$schema": DIALECT, "title": f"ovikit {model.__name__.lower()}", **schema, "$defs": definitions}


def _section(model: type[BaseModel], catalog: Catalog, definitions: dict[str, Schema]) -> Schema:
    properties: Schema = {}
    required: list[str] = []
    plain = _plain_properties(model, definitions)
    for name, field in model.model_fields.items():
        properties[name] = _field(name, field, catalog, definitions, plain)
        mark = slot_mark(field)
        if field.is_required() and (mark is None or mark.default is None):
            required.append(name)
    told: Schema = {"type": "object", "properties": properties, "additionalProperties": False, "required": required}
    return told | ({"description": model.__doc__.strip()} if model.__doc__ else {})


def _field(
    name: str, field: FieldInfo, catalog: Catalog, definitions: dict[str, Schema], plain: dict[str, Schema]
) -> Schema:
    mark, below = slot_mark(field), section(field)
    if mark is not None:
        schema = _slot(mark.kind, catalog, definitions, own_keys(field))
        if is_list(field):
            schema = {"type": "array", "items": schema, "minItems": 1}
    elif below is not None:
        schema = _section(below, catalog, definitions)
    else:
        return plain[name]
    if is_optional(field):
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema | ({"description": field.description} if field.description else {})


def _plain_properties(model: type[BaseModel], definitions: dict[str, Schema]) -> dict[str, Schema]:
    """Schemas of the fields that hold neither slots nor sections, as pydantic writes them."""
    from pydantic import create_model

    kept: Any = {
        name: (field.annotation, field)
        for name, field in model.model_fields.items()
        if slot_mark(field) is None and section(field) is None
    }
    schema = create_model(model.__name__, **kept).model_json_schema()
    definitions.update(schema.get("$defs", {}))
    return schema.get("properties", {})


def _slot(kind: str, catalog: Catalog, definitions: dict[str, Schema], own: tuple[str, ...]) -> Schema:
    """A reference to the kind's definition, which is made on first use."""
    key = f"{kind}-slot"
    if key not in definitions:
        definitions[key] = {}
        components = [_component(one, definitions, own) for one in catalog.of(kind).values()]
        definitions[key] = {"oneOf": components} if components else {"not": {}}
    return {"$ref": f"#/$defs/{key}"}


def _component(one: Registered, definitions: dict[str, Schema], own: tuple[str, ...]) -> Schema:
    config = one.component.config
    template = f"#/$defs/{one.kind}-{one.name}.{{model}}"
    _, found = models_json_schema([(config, "validation")], ref_template=template)
    nested: dict[str, Schema] = dict(found["$defs"])
    schema = dict(nested.pop(config.__name__))
    definitions.update({f"{one.kind}-{one.name}.{name}": below for name, below in nested.items()})
    properties = {
        "type": {"const": one.name},
        **{key: {"type": "string"} for key in own},
        **schema.get("properties", {}),
    }
    return {
        **schema,
        "title": f"{one.kind} {one.name}",
        "description": one.component.summary,
        "properties": properties,
        "required": ["type", *own, *schema.get("required", [])],
        "additionalProperties": False,
    }
