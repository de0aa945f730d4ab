"""How a length is cut into pieces of one size."""

from __future__ import annotations

import math


def covering(whole: int, length: int) -> list[int]:
    """Where as few pieces of ``length`` begin as cover a whole, evenly; one where the whole is no longer."""
    count = math.ceil(whole / length)
    return [round(i * (whole - length) / (count - 1)) for i in range(count)] if count > 1 else [0]
