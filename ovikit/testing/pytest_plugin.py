"""What ovikit gives to the tests of plugin authors. Loaded by pytest wherever ovikit is installed: no torch up here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ovikit.testing import CONTRACTS

if TYPE_CHECKING:
    from ovikit.kernel.catalog import Catalog

# A failing contract shows the values that it compared, as if it stood in the author's own test module.
pytest.register_assert_rewrite(
    "ovikit.testing.contract", *(f"ovikit.testing.{module}" for _, module in CONTRACTS.values())
)


def pytest_configure(config: pytest.Config) -> None:
    """Makes the one mark known that contracts carry."""
    config.addinivalue_line("markers", "slow: takes seconds rather than moments")


@pytest.fixture(scope="session")
def ovikit_catalog() -> Catalog:
    """The catalog of the installed plugins; the test fails with the plugin's name when one is broken."""
    from ovikit.kernel.manager import installed_catalog

    return installed_catalog()
