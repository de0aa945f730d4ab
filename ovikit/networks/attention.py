"""The default ``attend``: PyTorch's scaled dot-product attention, on the backend that suits the device.

Shape legend: b batch, n queries, m keys, h heads, d head width.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovikit.errors import UserError
from ovikit.networks.protocols import Attend

Backend = Literal["auto", "flash", "cudnn", "efficient", "math"]
BACKENDS: dict[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
HOPPER = 9  # from this compute capability on, cuDNN's kernels use instructions that PyTorch's own flash kernels do not
_ORDERED = "set_priority" in inspect.signature(sdpa_kernel).parameters


@runtime_checkable
class SpreadAttend(Protocol):
    """An ``attend`` whose tokens are spread over processes; ``local`` is for keys that each of them holds whole."""

    local: Attend


@runtime_checkable
class Described(Protocol):
    """An ``attend`` that can say what it does."""

    def describe(self, device: torch.device | str, dtype: torch.dtype) -> str:
        """What attends on that device in that format, and why. UserError where it cannot."""
        ...


def whole_keys(attend: Attend) -> Attend:
    """The ``attend`` for keys that are not spread over processes: the text's."""
    return attend.local if isinstance(attend, SpreadAttend) else attend


def length_mask(lengths: Int[Tensor, " b"], size: int) -> Bool[Tensor, "b {size}"]:
    """True where a token lies within its item's length."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


@torch.compiler.assume_constant_result
def _order(device: torch.device) -> list[SDPBackend]:
    """The backends to try on a CUDA device, best first; empty: as PyTorch itself orders them."""
    if not _ORDERED or torch.cuda.get_device_capability(device)[0] < HOPPER:
        return []
    return [BACKENDS[name] for name in ("cudnn", "flash", "efficient", "math")]


@dataclass(frozen=True)
class ScaledDotProduct:
    """PyTorch's scaled dot-product attention.

    backend: ``auto`` takes the best that the device has. A named one is used or refused, except with ``lengths``:
             those need a mask, which only ``efficient`` and ``math`` read. Other devices than CUDA have one of their
             own, and ``math``.
    """

    backend: Backend = "auto"

    def __call__(
        self,
        query: Float[Tensor, "b n h d"],
        key: Float[Tensor, "b m h d"],
        value: Float[Tensor, "b m h d"],
        lengths: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n h d"]:
        """Attended values; keys past ``lengths`` are not read."""
        mask = None if lengths is None else length_mask(lengths, key.shape[1])[:, None, None, :]
        with self._chosen(query.device, masked=mask is not None):
            out = F.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
            )
        return out.transpose(1, 2)

    def _chosen(self, device: torch.device, masked: bool) -> AbstractContextManager[None]:
        if self.backend == "math":
            return sdpa_kernel([SDPBackend.MATH])
        if device.type != "cuda" or (masked and self.backend == "auto"):
            return nullcontext()
        if self.backend == "auto":
            order = _order(device)
            return sdpa_kernel(order, set_priority=True) if order else nullcontext()
        named = [BACKENDS[self.backend]]
        return sdpa_kernel(named + [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH] if masked else named)

    def describe(self, device: torch.device | str, dtype: torch.dtype) -> str:
        """What attends on that device in that format, and why. UserError where the named backend cannot."""
        device = torch.device(device)
        if device.type != "cuda":
            which = "math" if self.backend == "math" else "the only one"
            return f"sdpa on {device.type}: PyTorch's kernel for that device ({which})"
        usable = _usable(device, dtype)
        name = torch.cuda.get_device_name(device)
        if self.backend != "auto":
            if self.backend not in usable:
                raise UserError(
                    f"attention backend '{self.backend}' does not run on {name} in {_short(dtype)}",
                    "model.attention.backend",
                    f"usable there: {', '.join(usable)}",
                )
            return f"sdpa, backend {self.backend}: as the recipe says ({name}, {_short(dtype)})"
        order = [one for backend in _order(device) for one, known in BACKENDS.items() if known == backend]
        if not order:
            return f"sdpa: PyTorch chooses among {', '.join(usable)} ({name}, {_short(dtype)})"
        best = next(one for one in order if one in usable)
        why = "the fastest that PyTorch brings for Hopper and later" if best == "cudnn" else "cuDNN does not run here"
        return f"sdpa, backend {best}: {why} ({name}, {_short(dtype)})"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _usable(device: torch.device, dtype: torch.dtype) -> list[str]:
    """The backends that run on a CUDA device in that format, by asking each for a small attention."""
    probe = torch.zeros(1, 1, 128, 128, device=device, dtype=dtype)
    params = torch.backends.cuda.SDPAParams(probe, probe, probe, None, 0.0, False, False)
    asked = {
        "cudnn": torch.backends.cuda.can_use_cudnn_attention,
        "flash": torch.backends.cuda.can_use_flash_attention,
        "efficient": torch.backends.cuda.can_use_efficient_attention,
    }
    return [name for name, can in asked.items() if can(params)] + ["math"]


sdpa = ScaledDotProduct()
