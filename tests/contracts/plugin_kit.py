"""Makes real, importable distributions with entry points in a temporary folder."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

HEAD = """\
from collections.abc import Sequence
from ovikit.kernel.component import Component, Config, NoOptions
from ovikit.kernel.hookspecs import hookimpl
"""


@dataclass
class Shelf:
    """A folder on the import path that distributions are put into."""

    folder: Path

    def put(
        self, name: str, source: str, *, version: str = "1.0", distribution: str | None = None, entry: str = ""
    ) -> None:
        """Adds a module ``plug_NAME`` in a distribution of its own, registered as plugin ``NAME``."""
        module = f"plug_{(distribution or name).replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(HEAD + textwrap.dedent(source))
        owner = distribution or f"dist-{name}"
        info = self.folder / f"{owner.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {owner}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[ovikit]\n{name} = {module}{entry}\n")

    def modules(self) -> Iterator[str]:
        return (path.stem for path in self.folder.glob("plug_*"))


def installed_plugin_names() -> set[str]:
    """Names of the plugins that importlib.metadata sees."""
    return {point.name for one in distributions() for point in one.entry_points if point.group == "ovikit"}
