"""The library's own tests pass with ``plugins/`` taken away: nothing in ``ovikit`` leans on a first-party plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT = "OVIKIT_TEST_WITHOUT_PLUGINS"


@pytest.mark.skipif(WITHOUT in os.environ, reason="this is that run")
def test_unit_and_contract_tests_pass_without_the_plugins() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/unit", "tests/contracts"],
        cwd=ROOT, env=os.environ | {WITHOUT: "1"}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_the_plugins_are_hidden_when_asked() -> None:
    code = "import conftest, ovikit\ntry:\n    import ovikit_ovi\nexcept ModuleNotFoundError:\n    print('hidden')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests", env=os.environ | {WITHOUT: "1"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "hidden\n"
