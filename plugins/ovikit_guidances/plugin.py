"""What this plugin registers: published guidances. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence

from ovikit.kernel.component import Component
from ovikit.kernel.hookspecs import hookimpl


@hookimpl
def ovikit_register_guidances() -> Sequence[Component]:
    return ()
