"""The JSON schema that editors use: it takes what the loader takes, and refuses what the loader refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from recipe_kit import GOOD, SUITE, kit_catalog, write

from ovikit.recipe.document import read_yaml
from ovikit.recipe.load import load_recipe
from ovikit.recipe.models import Suite
from ovikit.recipe.schema import document_schema


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found = document_schema(kit_catalog())
    Draft202012Validator.check_schema(found)
    return found


def data_of(folder: Path, text: str) -> dict[str, Any]:
    return read_yaml(write(folder, text)).data


def test_it_takes_the_good_recipe_as_written_and_resolved(schema: dict[str, Any], tmp_path: Path) -> None:
    validator = Draft202012Validator(schema)
    validator.validate(data_of(tmp_path, GOOD))
    validator.validate(load_recipe(write(tmp_path, GOOD), catalog=kit_catalog()).to_dict())


def test_it_takes_a_child_that_leaves_out_what_the_parent_has(schema: dict[str, Any], tmp_path: Path) -> None:
    child = "name: c\nextends: r.yaml\nsampling: {steps: 3}\nmodel: {positions: {ratio: 2.0}, fusion: {type: gated}}\n"
    Draft202012Validator(schema).validate(data_of(tmp_path, child))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fusion: {type: ovi}", "fusion: {type: ovvi}"),
        ("fusion: {type: ovi}", "fusion: {type: ovi, scale: 1}"),
        ("fusion: {type: ovi}", "fusion: ovi"),
        ("  fusion: {type: ovi}\n", ""),
        ("fusion: {type: ovi}", "fusion: {type: gated, gate: {scael: 1}}"),
        ("    ratio: 0.19", "    ratio: fast"),
        ("width: 16}", "width: 0}"),
        ("steps: 4", "steps: 4.5"),
        ("steps: 4", "stepz: 4"),
        ("max_steps: 3", "max_steps: 3, precision: fp16"),
        ("betas: [0.9, 0.95]", "betas: [0.9]"),
        ("version: 1", "version: 2"),
        ("conditioner: {type: bag}", "conditioner: {type: bag}\n  checkpoint: {type: official}"),
    ],
)
def test_it_refuses_a_bad_recipe(schema: dict[str, Any], tmp_path: Path, old: str, new: str) -> None:
    assert old in GOOD
    assert not Draft202012Validator(schema).is_valid(data_of(tmp_path, GOOD.replace(old, new, 1)))


@pytest.mark.parametrize("wrong", ["positions: {ratoi: 1}", "positions: {type: natvie}", "fusions: {}"])
def test_it_refuses_a_bad_child(schema: dict[str, Any], tmp_path: Path, wrong: str) -> None:
    child = f"name: c\nextends: r.yaml\nmodel: {{{wrong}}}\n"
    assert not Draft202012Validator(schema).is_valid(data_of(tmp_path, child))


def test_options_carry_their_meaning_and_default(schema: dict[str, Any]) -> None:
    fusions = schema["$defs"]["fusion-slot"]["oneOf"]
    assert {one["properties"]["type"]["const"] for one in fusions} == {"gated", "none", "ovi"}
    ratio = next(one for one in schema["$defs"]["positions-slot"]["oneOf"] if "ratio" in one["properties"])
    assert ratio["properties"]["ratio"]["default"] == 1.0
    assert ratio["properties"]["ratio"]["description"] == "By what the audio index is multiplied."


def test_a_suite_has_a_schema_too(tmp_path: Path) -> None:
    validator = Draft202012Validator(document_schema(kit_catalog(), Suite))
    validator.validate(data_of(tmp_path, SUITE))
    assert not validator.is_valid(data_of(tmp_path, SUITE.replace("type: onsets", "type: onset")))
