"""The ``attend`` of the flash-attn packages: version 2 (``flash_attn``) or 3 (``flash_attn_interface``).

Shape legend: b batch, n queries, m keys, h heads, d head width, s starts of sequences (2 b + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int, Int32
from torch import Tensor

from ovikit.errors import UserError

Version = Literal["auto", "2", "3"]
MODULES = {"3": "flash_attn_interface", "2": "flash_attn"}
HOPPER = 9  # version 3 is written for this compute capability
FORMATS = (torch.bfloat16, torch.float16)


def _module(version: str) -> ModuleType | None:
    """The package of that version. An index also carries an empty package of the same name: what counts is the
    function."""
    try:
        module = import_module(MODULES[version])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != MODULES[version]:
            raise
        return None
    needed = ("flash_attn_func", "flash_attn_varlen_func")
    return module if all(getattr(module, name, None) is not None for name in needed) else None


def installed() -> tuple[str, ...]:
    """The versions that can be imported, newest first."""
    return tuple(version for version in MODULES if _module(version) is not None)


def padded_sequences(
    lengths: Int[Tensor, " b"], queries: int, keys: int
) -> tuple[Int32[Tensor, " s"], Int32[Tensor, " s"]]:
    """Where sequences start in b x queries and b x keys tokens that lie in one row, for attention that is told starts.

    Each item is two sequences: all its queries with its valid keys, and no queries with its padding. So nothing is
    packed and nothing waits for the device.
    """
    items = torch.arange(lengths.shape[0] + 1, device=lengths.device, dtype=torch.int32)
    ends = torch.stack((items[:-1] * keys + lengths.to(torch.int32), items[1:] * keys), dim=1).flatten()
    query_ends = items[1:].repeat_interleave(2) * queries
    start = items[:1]
    return torch.cat((start, query_ends)), torch.cat((start, ends.to(torch.int32)))


def _first(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Some releases of version 3 also return the softmax's scale."""
    return out[0] if isinstance(out, tuple) else out


@dataclass(frozen=True)
class FlashAttention:
    """Attention by the flash-attn package, in bfloat16 or float16 on CUDA.

    attend, attend_varlen: its functions
    """

    version: str
    attend: Callable[..., Tensor | tuple[Tensor, ...]]
    attend_varlen: Callable[..., Tensor | tuple[Tensor, ...]]
    why: str

    def __call__(
        self,
        query: Float[Tensor, "b n h d"],
        key: Float[Tensor, "b m h d"],
        value: Float[Tensor, "b m h d"],
        lengths: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n h d"]:
        """Attended values; keys past ``lengths`` are not read."""
        self._refuse(query.device, query.dtype)
        if lengths is None:
            return _first(self.attend(query, key, value))
        queries, keys = query.shape[1], key.shape[1]
        starts = padded_sequences(lengths, queries, keys)
        rows = (rearrange(x, "b n h d -> (b n) h d") for x in (query, key, value))
        out = _first(self.attend_varlen(*rows, *starts, queries, keys))
        return rearrange(out, "(b n) h d -> b n h d", n=queries)

    def _refuse(self, device: torch.device, dtype: torch.dtype) -> None:
        if device.type != "cuda" or dtype not in FORMATS:
            raise UserError(
                f"flash-attn computes bfloat16 and float16 on CUDA, not {dtype} on {device.type}",
                "model.attention",
                "use attention 'sdpa', or another model.precision.dtype",
            )

    def describe(self, device: torch.device | str, dtype: torch.dtype) -> str:
        """What attends, and why. UserError for a device or format that it does not compute."""
        self._refuse(torch.device(device), dtype)
        return f"flash-attn {self.version}: {self.why} ({torch.cuda.get_device_name(device)})"


def flash_attention(version: Version = "auto") -> FlashAttention:
    """The ``attend`` of an installed flash-attn. UserError where that version, or for ``auto`` any, is missing.

    ``auto`` is version 3 on Hopper where it is installed, else version 2.
    """
    found = installed()
    if version != "auto":
        chosen, why = version, "as the recipe says"
    else:
        capable = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER
        preferred = [one for one in found if one == "2" or capable]
        chosen = preferred[0] if preferred else ""
        why = "written for this device's architecture" if chosen == "3" else "the version that is installed and fits"
    module = _module(chosen) if chosen in found else None
    if module is None:
        named = "flash-attn" if version == "auto" else f"flash-attn {version}"
        raise UserError(
            f"{named} is not installed" + (f" (there is version {', '.join(found)})" if found else ""),
            "model.attention",
            "version 2 comes with the extra 'flash': pip install 'ovikit[flash]' --no-build-isolation; version 3 is "
            "built from its sources; attention 'sdpa' needs neither",
        )
    return FlashAttention(chosen, module.flash_attn_func, module.flash_attn_varlen_func, why)
