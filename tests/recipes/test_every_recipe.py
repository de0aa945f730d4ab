"""Every recipe and suite of the repository: valid, written in the schema, buildable, lockable."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from ovikit.cli import build_app
from ovikit.errors import UserError
from ovikit.kernel.manager import installed_catalog
from ovikit.recipe import build
from ovikit.recipe.document import read_yaml
from ovikit.recipe.load import load_recipe, load_suite, profiles_of
from ovikit.recipe.lock import write_lock
from ovikit.recipe.models import Suite
from ovikit.recipe.schema import document_schema

ROOT = Path(__file__).parents[2]
# Matrices and cascades have tests of their own: test_ablation_plan.py, test_cascade.py.
RECIPES = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if not {"axes", "cascade"} & set(read_yaml(path).data)
)
SUITES = sorted((ROOT / "evals" / "suites").rglob("*.yaml"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_recipes_and_suites() -> None:
    assert RECIPES
    assert SUITES


def test_names_are_unique() -> None:
    names = [load_recipe(path).name for path in RECIPES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_is_valid_and_names_an_existing_suite(path: Path) -> None:
    recipe = load_recipe(path)
    Draft202012Validator(document_schema(installed_catalog())).validate(read_yaml(path).data)
    suite = recipe.suite_path()
    assert suite is None or suite.is_file()


def test_checking_all_of_them_answers_in_a_second_and_loads_no_torch() -> None:
    code = "import sys; from ovikit.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    took = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, "recipe", "check", *RECIPES], check=True, timeout=60)
        took.append(time.perf_counter() - start)
    assert min(took) < 1.0 + 0.1 * len(RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_builds(path: Path) -> None:
    recipe = load_recipe(path)
    codecs, conditioner = build.build_codecs(recipe), build.build_conditioner(recipe)
    model = build.build_model(recipe, codecs, conditioner, "meta")
    assert model.modalities == recipe.model.modalities
    for modality, codec in codecs.items():
        assert model.tower(modality).grid(codec.grid()).shape[0] > 0
    assert build.build_sampling(recipe).steps == recipe.sampling.steps
    if recipe.training is not None:
        assert sum(weight for weight in build.build_objective(recipe).weights.values()) > 0


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_locks_and_its_lock_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    # Weights that cannot be here are locked by a hash that was told.
    write_lock(recipe, tmp_path / "recipe.lock.yaml", checkpoint_sha256="0" * 64)
    assert load_recipe(tmp_path / "recipe.lock.yaml").digest == recipe.digest


def test_a_recipe_is_locked_with_the_weights_of_a_folder(tmp_path: Path) -> None:
    recipe, weights = ROOT / "recipes" / "reference" / "ovi-720x720-5s.yaml", tmp_path / "weights" / "Ovi"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(b"weights")
    arguments = ["recipe", "lock", str(recipe), "--output", str(tmp_path / "r.lock.yaml")]
    refused = CliRunner().invoke(build_app(), arguments)
    assert isinstance(refused.exception, UserError)
    assert "Ovi/model.safetensors" in str(refused.exception)
    done = CliRunner().invoke(build_app(), [*arguments, "--weights", str(tmp_path / "weights")])
    assert done.exit_code == 0
    assert hashlib.sha256(b"weights").hexdigest() in (tmp_path / "r.lock.yaml").read_text()


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "tiny"][:1], ids=named)
def test_the_commands_show_lock_and_compare(path: Path, tmp_path: Path) -> None:
    shown, locked = tmp_path / "shown.yaml", tmp_path / "r.lock.yaml"
    ovikit = CliRunner().invoke
    app = build_app()
    change = ["-o", "sampling.steps=3"]
    shown.write_text(ovikit(app, ["recipe", "show", str(path), *change]).output)
    told = ovikit(app, ["recipe", "lock", str(path), "--output", str(locked), *change]).output
    assert told == f"{locked}: digest {load_recipe(shown).digest}\n"
    assert load_recipe(locked).sampling.steps == load_recipe(shown).sampling.steps == 3
    steps = load_recipe(path).sampling.steps
    assert ovikit(app, ["recipe", "diff", str(path), str(path), *change]).output == f"sampling.steps: {steps} -> 3\n"


@pytest.mark.parametrize("path", SUITES, ids=named)
def test_a_suite_is_valid(path: Path) -> None:
    for profile in profiles_of(path):
        assert load_suite(path, profile=profile).profile == profile
    Draft202012Validator(document_schema(installed_catalog(), Suite)).validate(read_yaml(path).data)
