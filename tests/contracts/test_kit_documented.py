"""docs/testing-plugins.md lists every check of every contract, in the words of its docstring; the kit loads lazily."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ovikit.testing
from ovikit.kernel.kinds import KINDS
from ovikit.testing import CONTRACTS

PAGE = Path(__file__).parents[2] / "docs" / "testing-plugins.md"


def checks(contract: type) -> dict[str, str]:
    """The first paragraph of each check's docstring, by its name; those of the base class included."""
    found = inspect.getmembers(contract, lambda one: inspect.isfunction(one) and one.__name__.startswith("test_"))
    return {name: (inspect.getdoc(one) or "").partition("\n\n")[0].replace("\n", " ") for name, one in found}


@pytest.mark.parametrize("name", [name for name, _ in CONTRACTS.values()])
def test_every_check_is_on_the_page(name: str) -> None:
    page, contract = PAGE.read_text(encoding="utf-8"), getattr(ovikit.testing, name)
    section = (
        page.partition("### Every kind")[2].partition("###")[0] + page.partition(f"### `{name}`")[2].partition("###")[0]
    )
    told = checks(contract)
    assert len(told) > 5
    missing = [
        check
        for check, words in told.items()
        if not words or f"| `{check}` | {words.replace('|', chr(92) + '|')} |" not in section
    ]
    assert not missing, f"of {name}, {missing} are not on the page, or in other words"


def test_every_kind_has_a_contract_of_its_name() -> None:
    assert set(CONTRACTS) == set(KINDS)
    assert all(getattr(ovikit.testing, name).kind == kind for kind, (name, _) in CONTRACTS.items())
    assert sorted(ovikit.testing.__all__) == sorted(name for name, _ in CONTRACTS.values())
    with pytest.raises(AttributeError, match="no attribute 'Contracts'"):
        ovikit.testing.Contracts  # noqa: B018


def test_torch_is_loaded_with_the_first_contract_only() -> None:
    code = (
        "import sys, ovikit.testing, ovikit.testing.pytest_plugin\nprint('torch' in sys.modules)\n"
        "from ovikit.testing import SolverContract\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_failing_contract_is_named_with_what_to_do(tmp_path: Path) -> None:
    """pytest in an author's folder, with no configuration of its own."""
    (tmp_path / "test_mine.py").write_text(
        "from ovikit.kernel.component import Component, NoOptions\n"
        "from ovikit.numerics.solver.euler import Euler\n"
        "from ovikit.testing import SolverContract\n\n\n"
        "class Boastful(Euler):\n    order = 2\n\n\n"
        "class TestBoastful(SolverContract):\n"
        '    component = Component("boastful", NoOptions, lambda config: Boastful(), "an example")\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", tmp_path],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    failed = [line.partition("::")[2].split()[0] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == [
        "TestBoastful::test_order_from_noise_to_data_is_the_declared_one",
        "TestBoastful::test_order_within_the_path",
    ]
    assert "and 2 is declared; look at the coefficients" in done.stdout.replace("\nE  ", "")
