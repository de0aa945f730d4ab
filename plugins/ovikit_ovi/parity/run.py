"""Every golden file against this machine: largest relative error per case and tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit_ovi.parity import bigvgan, fusion, generate, mel, mmaudio_vae, rope, samplers, umt5, wan_vae
from ovikit_ovi.parity.golden import Golden

Replay = Callable[[Golden, torch.dtype], Iterator[tuple[str, str, Tensor, Tensor]]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of golden file is replayed by.

    float32_solver: the reference stepped in float32, also around a float64 network
    float32_grid:   its noise levels were rounded to float32 too, in whatever type they are stored
    """

    replay: Replay
    float32_solver: bool = False
    float32_grid: bool = False


KINDS: dict[str, Kind] = {
    "fusion": Kind(fusion.replay),
    "generate": Kind(generate.replay, float32_solver=True),
    "samplers": Kind(samplers.replay, float32_solver=True, float32_grid=True),
    "rope": Kind(rope.replay),
    "mel": Kind(mel.replay),
    "mmaudio_vae": Kind(mmaudio_vae.replay),
    "bigvgan": Kind(bigvgan.replay),
    "umt5": Kind(umt5.replay),
    "wan_vae": Kind(wan_vae.replay),
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How close a precision must come: max |a - b| / max |b|."""
RECORDED_MATH = 0x1D3FEA20
"""``float32_math`` of the machine that the recordings were made on."""


@cache
def float32_math() -> int:
    """A checksum of what float32 log, expm1 and a 2 x 2 solve give on this machine: the last bits of the released
    solver's coefficients, which are not the same on every processor."""
    one, found = torch.tensor(1.0), []
    for i in range(1, 512):
        x = torch.tensor(i / 512)
        matrix = torch.stack([torch.stack([one, one]), torch.stack([-3 * x, one])])
        found += [torch.log(x), torch.expm1(-3 * x), *torch.linalg.solve(matrix, torch.stack([x, x]))]
    return crc32(torch.stack(found).numpy().tobytes())


def tolerance(kind: Kind, dtype: torch.dtype, recorded: Tensor) -> float:
    """How close ``dtype`` must come to a recorded tensor. Nothing can come closer than float32 to what was stored in
    it, nor to what was stepped in it on a processor whose float32 has other last bits."""
    other_processor = kind.float32_solver and float32_math() != RECORDED_MATH
    rounded = recorded.dtype != torch.float64 or kind.float32_grid or other_processor
    return TOLERANCE[torch.float32 if rounded else dtype]


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
    if ours.shape != recorded.shape or ours.numel() == 0:
        return float("inf")
    ours, recorded = ours.to(torch.float64).cpu(), recorded.to(torch.float64)
    error = (ours - recorded).abs().max() / recorded.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float("inf") if error.isnan() else float(error)


def kind_of(path: Path) -> Kind:
    """The kind that a file's name begins with. UserError where that is none of them."""
    found = [kind for name, kind in KINDS.items() if path.name.startswith(name)]
    if not found:
        raise UserError(
            "a golden file's kind is the start of its name, and this is the start of none",
            str(path),
            f"there are: {', '.join(KINDS)}",
        )
    return found[0]


def compare(path: Path, precisions: tuple[torch.dtype, ...]) -> Iterator[Row]:
    """A row per case, tensor and precision of one file. UserError for a file that cannot be replayed as a whole."""
    kind, golden = kind_of(path), Golden.read(path)
    for dtype in precisions:
        compared: set[tuple[str, str]] = set()
        for case, tensor, ours, recorded in _replayed(kind, golden, dtype):
            precision = str(dtype).removeprefix("torch.")
            error = relative_error(ours, recorded)
            yield Row(path.name, case, tensor, precision, error, tolerance(kind, dtype, recorded))
            compared.add((case, tensor))
        golden.refuse_uncompared(compared)


def _replayed(kind: Kind, golden: Golden, dtype: torch.dtype) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """The replay; UserError with the reason where tensors and options of the file do not go together."""
    try:
        yield from kind.replay(golden, dtype)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"its tensors and options do not go together ({reason})", str(golden.path)) from error
