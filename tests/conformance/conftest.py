from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The kit's compiled checks run where the annotations of ovikit are only read: the compiler cannot trace checks."""
    for item in items:
        if item.name == "test_unchanged_under_the_compiler":
            item.add_marker(pytest.mark.unchecked_shapes)
