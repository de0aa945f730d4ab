"""What this plugin registers: the published positional schemes beside Ovi's. Torch-free until one is built."""

from __future__ import annotations

from collections.abc import Sequence

from ovikit.kernel.component import Component
from ovikit.kernel.hookspecs import hookimpl


@hookimpl
def ovikit_register_positions() -> Sequence[Component]:
    return ()
