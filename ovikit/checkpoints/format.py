"""A checkpoint format: how the tensors of somebody's file are named, and how to recognise one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ovikit.checkpoints.keymap import KeyMap


@dataclass(frozen=True)
class CheckpointFormat:
    """A layout of names.

    name:    as in a recipe's ``checkpoint: {type: ...}``
    keymap:  between its names and ours
    anchors: names that only files of this format hold
    """

    name: str
    keymap: KeyMap
    anchors: tuple[str, ...]

    def recognises(self, keys: Collection[str]) -> bool:
        """Whether a file with these tensor names is of this format."""
        return all(anchor in keys for anchor in self.anchors)
