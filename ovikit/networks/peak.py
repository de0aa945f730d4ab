"""Bytes that tensors take while something runs: counted on the meta device, they are known without running it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakBytes(TorchDispatchMode):
    """Counts what is allocated while it is entered: ``peak`` is the most that lived at once.

    What was there before (weights, inputs) is left out, and so is what a kernel takes inside itself: the workspace of
    a convolution, and what the allocator loses to fragments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakValueDictionary[int, torch.UntypedStorage] = weakref.WeakValueDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_iter((args, kwargs or {})):
            self._note(value, 0)
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            self._note(value, 1)
        return result

    def _note(self, value: object, counted: int) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known[storage._cdata] = storage
        size = counted * storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.live -= size
