"""What imports what: the layers of the design, and that reading recipes never waits for torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "lightning", "numpy", "av", "torchmetrics", "matplotlib"}
PLUGINS = sorted(path.name for path in (ROOT / "plugins").glob("ovikit_*") if (path / "plugin.py").is_file())


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def heavy_after(code: str) -> set[str]:
    """The heavy packages that are loaded once ``code`` has run in a fresh process."""
    done = run(f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_the_import_contracts_know_every_plugin() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {one["id"]: one for one in linter["contracts"]}
    assert sorted(linter["root_packages"]) == ["ovikit", *PLUGINS]
    assert sorted(contracts["library"]["forbidden_modules"]) == PLUGINS
    assert sorted(contracts["plugins"]["modules"]) == PLUGINS
    assert set(PLUGINS) <= set(contracts["lightning"]["source_modules"])


@pytest.mark.parametrize(
    "module",
    [
        "ovikit.cli", "ovikit.builtins", "ovikit.kernel.manager", "ovikit.kernel.hookspecs", "ovikit.recipe.models",
        "ovikit.recipe.load", "ovikit.recipe.lock", "ovikit.recipe.schema", "ovikit.testing.pytest_plugin",
        "ovikit.ablation.cells",
    ],
)  # fmt: skip
def test_it_imports_no_torch(module: str) -> None:
    assert heavy_after(f"import {module}") == set()


@pytest.mark.skipif("OVIKIT_TEST_WITHOUT_PLUGINS" in os.environ, reason="the plugins are hidden")
@pytest.mark.parametrize("package", PLUGINS)
def test_a_plugins_module_imports_no_torch(package: str) -> None:
    assert heavy_after(f"import {package}.plugin") == set()


def _loads(command: list[str]) -> set[str]:
    """The heavy packages that a command, which succeeds, loads."""
    ended = "except SystemExit as end:\n    assert end.code in (0, None)"
    return heavy_after(f"from ovikit.cli import main\ntry:\n    main({command!r})\n{ended}")


@pytest.mark.parametrize(
    "command",
    [
        ["plugins"], ["plugins", "show", "fusion/none"], ["recipe", "schema"], ["--help"], ["train", "--help"],
        ["generate", "--help"], ["plan", "--help"], ["ablate", "--help"], ["figures", "--help"], ["figures", "rope-affinity", "--help"],
        ["figures", "attention", "--help"],
    ],
)  # fmt: skip
def test_a_command_that_builds_nothing_loads_no_torch(command: list[str]) -> None:
    assert _loads(command) == set()


@pytest.mark.skipif("OVIKIT_TEST_WITHOUT_PLUGINS" in os.environ, reason="the plugins are hidden")
@pytest.mark.parametrize(
    "command",
    [
        ["prompt", "check", "He says <S>hi<E>"],
        ["prompt", "check", "He says <S>hi<E>", "--recipe", "recipes/reference/ovi-960x960-10s.yaml"],
        ["recipe", "check", "recipes/reference/ovi-960x960-10s.yaml"],
        ["weights", "check", "--help"],
        ["parity", "--help"],
    ],
)
def test_a_plugins_command_that_builds_nothing_loads_no_torch(command: list[str]) -> None:
    assert _loads(command) == set()


def test_checking_a_recipe_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/unit')\n"
        "from pathlib import Path; from recipe_kit import GOOD, kit_catalog, write\n"
        "from ovikit.recipe.load import load_recipe; from ovikit.recipe.lock import write_lock\n"
        f"recipe = load_recipe(write(Path({str(tmp_path)!r}), GOOD), (), kit_catalog())\n"
        f"write_lock(recipe, Path({str(tmp_path)!r}) / 'lock.yaml', kit_catalog())"
    )
    assert heavy_after(code) == set()
