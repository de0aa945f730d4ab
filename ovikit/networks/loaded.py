"""Codecs and conditioners with their weights read, for whoever drives them without a plan for the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ovikit.networks.protocols import Codec, Conditioner, Weighted


@contextmanager
def loaded(*parts: Codec | Conditioner, device: torch.device | str = "cpu") -> Iterator[None]:
    """The parts are ready to be used on ``device`` inside, and take no memory afterwards. Those without weights always
    are. UserError for weights that are missing or damaged."""
    weighted = [part for part in parts if isinstance(part, Weighted)]
    try:
        for part in weighted:
            part.load(device)
        yield
    finally:
        for part in weighted:
            part.unload()
