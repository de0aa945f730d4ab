"""What ovikit gives to the tests of plugin authors. Loaded by pytest wherever ovikit is installed: no torch up here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ovikit.kernel.catalog import Catalog


@pytest.fixture(scope="session")
def ovikit_catalog() -> Catalog:
    """The catalog of the installed plugins; the test fails with the plugin's name when one is broken."""
    from ovikit.kernel.manager import installed_catalog

    return installed_catalog()
