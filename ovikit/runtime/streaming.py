"""The layers of a network in host memory, each on the device for as long as it is needed.

Each layer's weights lie in one block of pinned host memory and are copied in one piece into one of a few slots on the
device. While a layer computes, the next ones are copied on a stream of their own; events order the two, and the host
waits for neither. A layer that is left out costs a copy that nobody reads, and no time. On a device without streams the
same happens one thing after the other. The weights keep their names and their bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ovikit.errors import UserError

_ALIGNMENT = 256
_PAGE = 4096
_SMALL = 1 << 20
"""Bytes up to which PyTorch's pinned memory is used, which is handed out in powers of two."""

Table = dict[str, Any]
"""A module's own parameters or buffers by name."""


def weights_of(module: nn.Module) -> list[tuple[Table, str]]:
    """Where each parameter and buffer of a module is written down."""
    tables = [table for one in module.modules() for table in (one._parameters, one._buffers)]
    return [(table, name) for table in tables for name, value in table.items() if value is not None]


def like(old: Tensor, value: Tensor) -> Tensor:
    """``value`` as a parameter where the old tensor was one."""
    return nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor consists of: itself, or those inside of a quantised one."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor.detach()]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_parts(getattr(tensor, name))]


def rebuilt(tensor: Tensor, parts: Iterator[Tensor]) -> Tensor:
    """A tensor of the same make from other plain parts."""
    if not is_traceable_wrapper_subclass(tensor):
        return next(parts)
    names, context = tensor.__tensor_flatten__()
    inner = {name: rebuilt(getattr(tensor, name), parts) for name in names}
    return type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where a plain tensor lies in a block."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def of(self, block: Tensor) -> Tensor:
        return block[self.offset : self.end].view(self.dtype).view(self.shape)


class _Packed:
    """The weights of one layer in one block of host memory."""

    def __init__(self, layer: nn.Module, device: torch.device) -> None:
        self.places = weights_of(layer)
        old = [table[name] for table, name in self.places]
        parts = [plain_parts(tensor) for tensor in old]
        self.pieces: list[_Piece] = []
        end = 0
        for part in (one for several in parts for one in several):
            self.pieces.append(_Piece(-(-end // _ALIGNMENT) * _ALIGNMENT, part.dtype, tuple(part.shape)))
            end = self.pieces[-1].end
        self.block = host_block(end, device)
        for piece, part in zip(self.pieces, (one for several in parts for one in several), strict=True):
            piece.of(self.block).copy_(part)
        self.host = self.over(self.block, old)
        self.put(self.host)

    def over(self, block: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
        """Tensors like ``of`` whose numbers lie in ``block``."""
        parts = iter([piece.of(block) for piece in self.pieces])
        return [like(old, rebuilt(old, parts)) for old in of]

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Makes these the layer's weights."""
        for (table, name), tensor in zip(self.places, tensors, strict=True):
            table[name] = tensor


def host_block(size: int, device: torch.device) -> Tensor:
    """Host memory that ``device`` can copy from while it computes. UserError where the system does not allow it."""
    if device.type != "cuda":
        return torch.empty(size, dtype=torch.uint8)
    if size <= _SMALL:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    whole = torch.empty(size + 2 * _PAGE, dtype=torch.uint8)
    start = -whole.data_ptr() % _PAGE
    pages = -(-size // _PAGE) * _PAGE
    block = whole[start : start + size]
    runtime = torch.cuda.cudart()
    if int(runtime.cudaHostRegister(block.data_ptr(), pages, 0)) != 0:
        raise UserError(
            f"{size / 1e9:.2f} GB of memory cannot be pinned for the device",
            "runtime.memory",
            "the system limits locked memory (see ulimit -l), or it is full: take another memory plan",
        )
    weakref.finalize(block, runtime.cudaHostUnregister, block.data_ptr())
    return block


class _Slot:
    """A place on the device for one layer at a time.

    holds: which; ready: it is there; done: nothing reads it any more
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.block = torch.empty(size, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        on_cuda = device.type == "cuda"
        self.ready = torch.cuda.Event() if on_cuda else None
        self.done = torch.cuda.Event() if on_cuda else None
        self.tensors: dict[int, list[Tensor]] = {}


class LayerStream:
    """Brings layers to the device in the order in which they are visited, a few ahead."""

    def __init__(self, layers: Sequence[nn.Module], device: torch.device | str, slots: int) -> None:
        self.device = torch.device(device)
        with torch.inference_mode(False), torch.no_grad():  # the weights outlive the sampling that asks for them
            self._packed = [_Packed(layer, self.device) for layer in layers]
        self._count = min(slots, len(self._packed))
        self._slots: list[_Slot] = []
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @property
    def bytes_on_device(self) -> int:
        """What the slots take."""
        return self._count * max((one.block.numel() for one in self._packed), default=0)

    def open(self) -> None:
        """Makes room on the device, and begins to fetch the first layers."""
        size = max((one.block.numel() for one in self._packed), default=0)
        with torch.inference_mode(False):
            self._slots = [_Slot(size, self.device) for _ in range(self._count)]
        if self._side is not None:  # the room may be what earlier work has just given back
            self._side.wait_stream(torch.cuda.current_stream(self.device))
        for i in range(self._count):
            self._fetch(i, self._slots[i])

    def close(self) -> None:
        """Gives the room back."""
        if self._side is not None:  # copies ahead may still be under way
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        self._slots = []

    @contextmanager
    def visit(self, i: int) -> Iterator[None]:
        """A context in which layer ``i`` has its weights on the device; the layers after it are on their way."""
        wanted = [(i + ahead) % len(self._packed) for ahead in range(self._count)]
        for j in wanted:
            if all(slot.holds != j for slot in self._slots):
                self._fetch(j, next(slot for slot in self._slots if slot.holds not in wanted))
        slot = next(slot for slot in self._slots if slot.holds == i)
        if slot.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
        packed = self._packed[i]
        if i not in slot.tensors:
            with torch.inference_mode(False):
                slot.tensors[i] = packed.over(slot.block, packed.host)
        packed.put(slot.tensors[i])
        try:
            yield
        finally:
            packed.put(packed.host)
            if slot.done is not None:
                slot.done.record(torch.cuda.current_stream(self.device))

    def _fetch(self, i: int, slot: _Slot) -> None:
        """Begins to copy layer ``i`` into a slot, once nothing reads what is there."""
        slot.holds = i
        with self._aside():
            if self._side is not None and slot.done is not None:
                self._side.wait_event(slot.done)  # no wait where it was never recorded
            source = self._packed[i].block
            slot.block[: source.numel()].copy_(source, non_blocking=True)
            if self._side is not None and slot.ready is not None:
                slot.ready.record(self._side)

    def _aside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)
