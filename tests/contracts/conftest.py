from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_kit import Shelf


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A folder on the import path for plugins that a test makes; its modules are forgotten afterwards."""
    found = Shelf(tmp_path / "shelf")
    found.folder.mkdir()
    monkeypatch.syspath_prepend(found.folder)
    yield found
    for name in found.modules():
        sys.modules.pop(name, None)
