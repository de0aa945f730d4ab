"""The library's own tests run with ``plugins/`` taken away: nothing in ``ovikit`` leans on a first-party plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT = "OVIKIT_TEST_WITHOUT_PLUGINS"


def test_make_runs_them_so() -> None:
    lines = subprocess.run(
        ["make", "--dry-run", "--always-make", "test"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    runs = [line for line in lines if " -m pytest " in line]
    assert len(runs) == 2
    assert runs[0].startswith(f"{WITHOUT}=1 ")
    assert "tests/unit tests/contracts" in runs[0]
    assert WITHOUT not in runs[1]


def test_the_plugins_are_hidden_when_asked() -> None:
    code = "import conftest, ovikit\ntry:\n    import ovikit_ovi\nexcept ModuleNotFoundError:\n    print('hidden')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests", env=os.environ | {WITHOUT: "1"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "hidden\n"
