"""What a recipe resolves to: inheritance, overrides, strictness, sources."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from recipe_kit import GOOD, SUITE, TowerConfig, kit_catalog, write

from ovikit.errors import UserError
from ovikit.recipe.diff import ABSENT, Difference, differences, recipe_differences
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.recipe.models import Recipe


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path, GOOD, "good.yaml")


def resolved(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides, kit_catalog())


def changes(path: Path, *overrides: str) -> dict[str, tuple[Any, Any]]:
    """What ``path`` and overrides change in the good recipe beside it, by dotted path."""
    old, new = resolved(path.parent / "good.yaml").to_dict(), resolved(path, *overrides).to_dict()
    return {one.path: (one.old, one.new) for one in differences(old, new)}


def test_slots_hold_the_components_own_validated_config(good: Path) -> None:
    recipe = resolved(good)
    assert recipe.model.video is not None
    assert isinstance(recipe.model.video.config, TowerConfig)
    assert recipe.model.video.options == {"width": 16, "heads": 4, "patch": [1, 2, 2], "norm": "layer"}
    assert recipe.model.attention.type == "sdpa"
    assert recipe.model.modalities == ("video", "audio")
    assert recipe.training is not None
    assert recipe.training.optimizer.betas == (0.9, 0.95)
    assert recipe.training.optimizer.learning_rate == 2e-3


def test_a_recipe_is_frozen(good: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        resolved(good).name = "other"  # type: ignore[misc]


def test_a_recipe_survives_pickling(good: Path) -> None:
    recipe = resolved(good)
    assert pickle.loads(pickle.dumps(recipe)).to_dict() == recipe.to_dict()


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("sampling.steps=20", "sampling.steps", 20),
        ("training.optimizer.learning_rate=1e-4", "training.optimizer.learning_rate", 1e-4),
        ("model.video.norm=rms", "model.video.norm", "rms"),
        ("model.video.patch=[1, 1, 1]", "model.video.patch", [1, 1, 1]),
        ("sampling.guidance.skip_layers=[1]", "sampling.guidance.skip_layers", [1]),
        ("training.ema.decay=0.5", "training.ema", {"decay": 0.5, "on": "device"}),
        ("sampling.negative.video=no, never", "sampling.negative.video", "no, never"),
        ("model.seed=3", "model.seed", 3),
        ("evaluation=null", "evaluation", None),
    ],
)
def test_an_override_changes_one_path(good: Path, override: str, path: str, value: object) -> None:
    assert {one: new for one, (_, new) in changes(good, override).items()} == {path: value}


def test_an_override_of_type_drops_the_old_options(good: Path) -> None:
    assert changes(good, "model.positions.type=native") == {
        "model.positions": ({"type": "scaled", "ratio": 0.19}, {"type": "native"})
    }


def test_an_override_of_the_same_type_keeps_the_options(good: Path) -> None:
    assert changes(good, "model.positions.type=scaled") == {}


def test_overrides_apply_in_order_and_below_a_new_type(good: Path) -> None:
    found = resolved(good, "model.fusion.type=gated", "model.fusion.gate.scale=0.5", "model.fusion.per_layer.3=2.0")
    assert found.model.fusion.options == {"gate": {"scale": 0.5}, "per_layer": {"3": 2.0}}
    assert resolved(good, "sampling.steps=5", "sampling.steps=6").sampling.steps == 6


def test_a_slot_left_to_its_default_can_be_overridden(good: Path) -> None:
    assert changes(good, "model.attention.type=sdpa") == {}


def test_mappings_merge_lists_replace_and_names_are_not_inherited(good: Path) -> None:
    child = write(
        good.parent,
        """
        name: child
        extends: good.yaml
        model: {video: {heads: 2, patch: [1, 1, 1]}}
        """,
    )
    assert changes(child) == {
        "name": ("good", "child"),
        "model.video.heads": (4, 2),
        "model.video.patch": ([1, 2, 2], [1, 1, 1]),
    }
    nameless = write(good.parent, "extends: good.yaml\n", "nameless.yaml")
    with pytest.raises(UserError, match=r"nameless\.yaml:1: name: is missing"):
        resolved(nameless)


def test_a_child_that_changes_type_drops_the_parents_options(good: Path) -> None:
    child = write(good.parent, "name: c\nextends: good.yaml\nmodel: {positions: {type: native}}\n")
    assert resolved(child).model.positions.to_dict() == {"type": "native"}


def test_a_child_that_repeats_the_type_keeps_the_parents_options(good: Path) -> None:
    child = write(good.parent, "name: c\nextends: good.yaml\nmodel: {positions: {type: scaled}}\n")
    assert resolved(child).model.positions.to_dict() == {"type": "scaled", "ratio": 0.19}


def test_a_child_can_empty_and_refill_a_slot(good: Path) -> None:
    child = write(
        good.parent,
        "name: c\nextends: good.yaml\nmodel: {audio: null, fusion: {type: none}}\ntraining: {stage: video}\n",
    )
    grandchild = write(
        good.parent,
        "name: g\nextends: r.yaml\nmodel: {audio: {type: tower, width: 8}, fusion: {type: ovi}}\n"
        "training: {stage: joint}\n",
        "g.yaml",
    )
    assert resolved(child).model.modalities == ("video",)
    assert changes(grandchild) == {
        "name": ("good", "g"), "model.audio.width": (16, 8), "model.audio.heads": (2, 4)
    }  # fmt: skip


def test_a_cycle_over_several_files_is_told_in_full(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f"name: {name}\nextends: {parent}.yaml\n", f"{name}.yaml")
    with pytest.raises(UserError, match=r"c\.yaml:2: extends: .*: a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"):
        resolved(tmp_path / "a.yaml")


def test_a_parents_suite_is_found_from_the_childs_folder(good: Path) -> None:
    child = write(good.parent, "name: c\nextends: ../good.yaml\n", "sub/c.yaml")
    for path in (good, child):
        suite = resolved(path).suite_path()
        assert suite is not None
        assert suite.resolve() == (good.parent / "suites/toy.yaml").resolve()


def test_the_same_suite_seen_from_two_folders_is_no_difference(good: Path) -> None:
    child = resolved(write(good.parent, "name: good\nextends: ../good.yaml\n", "sub/c.yaml"))
    assert list(recipe_differences(resolved(good), child)) == []


def test_yaml_is_read_as_version_1_2(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("name: good", "name: no").replace("2e-3", "1e-5"))
    recipe = resolved(path)
    assert recipe.name == "no"
    assert recipe.training is not None
    assert recipe.training.optimizer.learning_rate == 1e-5
    assert resolved(write(tmp_path, GOOD.replace("name: good", "name: 2026-01-02"))).name == "2026-01-02"


def test_anchors_are_read_as_copies(tmp_path: Path) -> None:
    text = GOOD.replace("video: {type: dct}", "video: &codec {type: dct}").replace(
        "audio: {type: mel}", "audio: *codec"
    )
    codecs = resolved(write(tmp_path, text)).model.codecs
    assert codecs.audio == codecs.video


def test_a_suite_is_loaded_with_overrides_of_list_items(tmp_path: Path) -> None:
    path = write(tmp_path, SUITE)
    suite = load_suite(path, ["prompts.clips=64", "evaluators.1.type=onsets"], kit_catalog())
    assert suite.prompts.options == {"clips": 64}
    assert [one.type for one in suite.evaluators] == ["onsets", "onsets"]


def test_differences_tell_absent_from_null_and_replace_slots_whole() -> None:
    old = {"a": {"type": "x", "n": 1}, "b": None, "c": 1, "d": {"e": 1, "f": 2}}
    new = {"a": {"type": "y", "m": 1}, "c": 1.0, "d": {"e": 1, "f": 3}, "g": []}
    assert list(differences(old, new)) == [
        Difference("a", {"type": "x", "n": 1}, {"type": "y", "m": 1}),
        Difference("b", None, ABSENT),
        Difference("c", 1, 1.0),
        Difference("d.f", 2, 3),
        Difference("g", ABSENT, []),
    ]
    assert list(differences(old, old)) == []


@pytest.mark.parametrize("name", ["../out", "a/b", "'a\\b'", ".hidden", "' a'", "'a '", '"a\\tb"'])
def test_a_name_cannot_lead_out_of_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(UserError, match="name: should be able to name a folder"):
        load_recipe(path, [f"name={name}"], kit_catalog())
