"""Every hook has a heading with its exact signature, a test named after it, and an implementation."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ovikit.kernel import hookspecs
from ovikit.kernel.kinds import KINDS
from ovikit.kernel.manager import hook_names

ROOT = Path(__file__).parents[2]
HOOKS = sorted(hook_names())


def signature(hook: str) -> str:
    return hook + str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")


def test_the_list_is_not_empty() -> None:
    assert len(HOOKS) == len(KINDS) + 8


@pytest.mark.parametrize("hook", HOOKS)
def test_it_has_a_heading_with_its_exact_signature(hook: str) -> None:
    assert f"\n### `{signature(hook)}`\n" in (ROOT / "docs" / "hooks.md").read_text()


def test_nothing_else_is_documented_as_a_hook() -> None:
    headings = re.findall(r"^### `(\w+)\(", (ROOT / "docs" / "hooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_it_has_a_test_named_after_it(hook: str) -> None:
    assert any(f"def test_{hook}(" in path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("hook", HOOKS)
def test_it_has_an_implementation(hook: str) -> None:
    sources = [ROOT / "ovikit" / "builtins.py", *(ROOT / "plugins").rglob("*.py")]
    marked = re.compile(rf"^@hookimpl\ndef {hook}\(", re.MULTILINE)
    assert any(marked.search(path.read_text()) for path in sources)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_document_says_what_each_build_is_given(kind) -> None:
    text = (ROOT / "docs" / "hooks.md").read_text()
    section = text.split(f"### `{kind.hook}(")[1].split("\n### ")[0].split("\n## ")[0]
    keywords = f"(config, *, {', '.join(kind.keywords)})" if kind.keywords else "(config)"
    assert f"`build{keywords}`" in section
