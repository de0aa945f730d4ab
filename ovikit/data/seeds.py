"""Generators that are a function of what they are for.

A generator that outlives a step has a state that a resumed run must find again. These do not: what a step draws
depends on the seed, the purpose and the step alone, whatever ran before, on however many devices.
"""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, purpose: str, *counts: int) -> int:
    """A seed in [0, 2^63) for one purpose and place; other purposes and places get unrelated ones."""
    text = "/".join((str(seed), purpose, *map(str, counts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, purpose: str, *counts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator for one purpose and place, such as ("noise", step)."""
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, *counts))
