"""What all tests share.

OVIKIT_TEST_WITHOUT_PLUGINS=1 hides every ``ovikit_*`` package, as if ``plugins/`` were not there: the library's
own tests (tests/unit and tests/contracts) pass like that, and tests/contracts/test_without_plugins.py runs them so.
They therefore use ovikit's built-ins or components that they define, never a first-party plugin.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

import pytest

WITHOUT = "OVIKIT_TEST_WITHOUT_PLUGINS"


class _NoPlugins(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0].startswith("ovikit_"):
            raise ModuleNotFoundError(f"No module named {name!r} ({WITHOUT} is set)", name=name)
        return None


if os.environ.get(WITHOUT):
    sys.meta_path.insert(0, _NoPlugins())
    os.environ["OVIKIT_PLUGINS"] = "builtins"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
