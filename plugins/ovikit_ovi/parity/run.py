"""Every golden file against this machine: largest relative error per case and tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit_ovi.parity import fusion, generate, rope, samplers
from ovikit_ovi.parity.golden import Golden

Replay = Callable[[Golden, torch.dtype], Iterator[tuple[str, str, Tensor, Tensor]]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of golden file is replayed by, and how close it must come: max |a - b| / max |b|.

    The reference of a ``float32_reference`` ran partly in float32, which bounds what any precision can agree to.
    """

    replay: Replay
    tolerance: dict[torch.dtype, float]


_BOTH = {torch.float64: 1e-9, torch.float32: 1e-5}
_FLOAT32_REFERENCE = {torch.float64: 1e-5, torch.float32: 1e-5}

KINDS: dict[str, Kind] = {
    "fusion": Kind(fusion.replay, _BOTH),
    "generate": Kind(generate.replay, _BOTH),
    "samplers": Kind(samplers.replay, _FLOAT32_REFERENCE),
    "rope": Kind(rope.replay, _BOTH),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One compared tensor."""

    file: str
    case: str
    tensor: str
    precision: str
    error: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.error <= self.tolerance  # NaN agrees with nothing


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """max |a - b| / max |b|; infinite where the shapes differ or either holds NaN."""
    if ours.shape != recorded.shape:
        return float("inf")
    ours, recorded = ours.to(torch.float64).cpu(), recorded.to(torch.float64)
    error = (ours - recorded).abs().max() / recorded.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float("inf") if error.isnan() else float(error)


def kind_of(path: Path) -> Kind:
    """The kind that a file's name begins with."""
    name = path.name.removesuffix(".safetensors").split("_")[0]
    if name not in KINDS:
        raise UserError(
            f"a golden file's kind is the start of its name; {name!r} is none of {', '.join(KINDS)}", str(path)
        )
    return KINDS[name]


def compare(path: Path, precisions: tuple[torch.dtype, ...]) -> Iterator[Row]:
    """A row per case, tensor and precision of one file."""
    kind = kind_of(path)
    golden = Golden.read(path)
    for dtype in precisions:
        for case, tensor, ours, recorded in kind.replay(golden, dtype):
            precision = str(dtype).removeprefix("torch.")
            error = relative_error(ours, recorded)
            yield Row(path.name, case, tensor, precision, error, kind.tolerance[dtype])
