"""Lock files: they load, they repeat the recipe, and they notice being changed."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import pytest
from recipe_kit import GOOD, kit_catalog, write

from ovikit.errors import UserError
from ovikit.recipe.document import read_yaml
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lock import write_lock
from ovikit.recipe.models import Recipe, digest_of


def load(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides, kit_catalog())


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load(write(tmp_path, GOOD))


@pytest.fixture
def lock(recipe: Recipe, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "recipe.lock.yaml"
    write_lock(recipe, path, kit_catalog())
    return path


def test_a_lock_file_loads_as_the_same_recipe(recipe: Recipe, lock: Path) -> None:
    again = load(lock)
    assert again.digest == recipe.digest
    assert {**again.to_dict(), "evaluation": None} == {**recipe.to_dict(), "evaluation": None}
    found, told = again.suite_path(), recipe.suite_path()
    assert found is not None
    assert told is not None
    assert found.resolve() == told.resolve()


def test_locking_a_lock_file_changes_nothing(lock: Path) -> None:
    again = lock.with_name("again.lock.yaml")
    write_lock(load(lock), again, kit_catalog())
    assert again.read_text() == lock.read_text()


def test_a_lock_file_names_versions_and_components(lock: Path) -> None:
    told = read_yaml(lock).data["lock"]
    assert told["versions"]["torch"] == version("torch")
    assert told["components"]["fusion/ovi"] == "kit-dist 1.2"
    assert told["components"]["attention/sdpa"] == "ovikit 0.0"
    assert "checkpoint_sha256" not in told


def test_a_lock_file_holds_the_hash_of_its_checkpoint(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    checkpoint = f"conditioner: {{type: bag}}\n  checkpoint: {{type: official, path: '{weights}'}}"
    recipe = load(write(tmp_path, GOOD.replace("conditioner: {type: bag}", checkpoint)))
    write_lock(recipe, tmp_path / "l.yaml", kit_catalog())
    assert read_yaml(tmp_path / "l.yaml").data["lock"]["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [("steps: 4", "steps: 5"), ("betas: [0.9, 0.95]", "betas: [0.9, 0.99]"), ("  checkpoint: null\n", "")],
)
def test_an_edited_lock_file_is_refused(lock: Path, old: str, new: str) -> None:
    text = lock.read_text()
    assert old in text
    lock.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"lock\.digest: this file was changed after it was locked: its digest is"):
        load(lock)


def test_a_lock_file_without_digest_is_refused(lock: Path) -> None:
    text = "".join(line for line in lock.read_text().splitlines(keepends=True) if "digest:" not in line)
    lock.write_text(text)
    with pytest.raises(UserError, match=r"lock\.digest: is missing"):
        load(lock)


def test_a_lock_file_that_plugins_now_read_otherwise_is_refused(lock: Path) -> None:
    # As after an update that gave a component a new option: the file is whole, but it no longer says everything.
    source = read_yaml(lock)
    digest = source.data.pop("lock")["digest"]
    del source.data["model"]["positions"]["ratio"]
    text = lock.read_text().replace("    ratio: 0.19\n", "").replace(digest, digest_of(source.data))
    lock.write_text(text)
    with pytest.raises(UserError, match="the installed plugins read this lock file differently"):
        load(lock)


def test_a_lock_file_can_be_overridden_and_extended(lock: Path) -> None:
    assert load(lock, "sampling.steps=9").sampling.steps == 9
    child = write(lock.parent, f"name: child\nextends: {lock.name}\nsampling: {{steps: 8}}\n")
    assert load(child).sampling.steps == 8


def test_writing_a_lock_leaves_nothing_else_behind(lock: Path) -> None:
    assert [path.name for path in lock.parent.iterdir()] == ["recipe.lock.yaml"]


def test_the_digest_ignores_how_a_recipe_is_written(recipe: Recipe, tmp_path: Path) -> None:
    rewritten = GOOD.replace("duration_s: 2,", "duration_s: 2.0,").replace("2e-3", "0.002")
    rewritten = rewritten.replace("steps: 4", "steps: 4\n  seed: 0")
    lines = rewritten.splitlines(keepends=True)
    assert load(write(tmp_path, "".join(lines[2:] + lines[:2]), "b.yaml")).digest == recipe.digest


def test_the_digest_is_of_what_makes_the_clips(recipe: Recipe) -> None:
    assert recipe.source is not None
    assert load(recipe.source, "evaluation=null").digest == recipe.digest
    others = ["model.seed=1", "sampling.steps=5", "model.positions.ratio=0.2", "model.fusion.type=none", "name=x"]
    digests = {load(recipe.source, one).digest for one in others} | {recipe.digest}
    assert len(digests) == len(others) + 1


def test_the_digest_stays_what_it_was(recipe: Recipe) -> None:
    # Clips and reports carry digests: a change here means that no older lock file loads any more.
    plain = {"name": "x", "list": [1, 2.5, True, None], "text": "é", "evaluation": {"suite": "s"}}
    assert digest_of(plain) == hashlib.sha256('{"list":[1,2.5,true,null],"name":"x","text":"é"}'.encode()).hexdigest()
    assert recipe.digest == digest_of(recipe.to_dict())
