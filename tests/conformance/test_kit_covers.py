"""Every component that is installed has a contract class in these tests."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import installed_catalog
from ovikit.testing import CONTRACTS
from ovikit.testing.contract import Contract


def contracts() -> set[tuple[str, str]]:
    """Kind and name of every component that a test class of tests/conformance/test_kit_*.py is about."""
    found: set[tuple[str, str]] = set()
    for path in sorted(Path(__file__).parent.glob("test_kit_*.py")):
        for name, one in inspect.getmembers(importlib.import_module(path.stem), inspect.isclass):
            if name.startswith("Test") and issubclass(one, Contract):
                found.add((one.kind, str(one.component)))
    return found


def test_every_installed_component_has_a_contract() -> None:
    told = contracts()
    without = [f"{one.kind}/{one.name}" for one in installed_catalog() if (one.kind, one.name) not in told]
    assert not without, f"no contract class for {', '.join(without)}; add one to tests/conformance/test_kit_*.py"


def test_every_kind_has_a_contract() -> None:
    assert set(CONTRACTS) == set(KINDS)
