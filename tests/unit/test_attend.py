"""Attention against a softmax in float64, whatever computes it; what is chosen is said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.kernel.manager import installed_catalog
from ovikit.networks.attention import Described, ScaledDotProduct, SpreadAttend, sdpa, whole_keys
from ovikit.networks.flash import flash_attention, installed, padded_sequences


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Item by item, with only the valid keys there: no mask to get wrong."""
    out = []
    for i in range(q.shape[0]):
        m = k.shape[1] if lengths is None else int(lengths[i])
        q_, k_, v_ = (x.double() for x in (q[i], k[i, :m], v[i, :m]))
        weights = (torch.einsum("nhd,mhd->hnm", q_, k_) / math.sqrt(q.shape[-1])).softmax(-1)
        out.append(torch.einsum("hnm,mhd->nhd", weights, v_))
    return torch.stack(out)


@pytest.mark.parametrize("backend", ["auto", "math"])
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 9]), torch.tensor([1, 4])], ids=str)
def test_attention_is_the_softmax_average(
    backend: str, dtype: torch.dtype, error: float, lengths: Tensor | None
) -> None:
    q, k, v = (drawn(2, n, 3, 8, seed=i, dtype=dtype) for i, n in enumerate((5, 9, 9)))
    found = ScaledDotProduct(backend)(q, k, v, lengths)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), plain(q, k, v, lengths), atol=error)


@pytest.mark.unchecked_shapes
def test_attention_compiles_whole_also_where_a_backend_is_named() -> None:
    q, k, v = (drawn(2, n, 3, 8, seed=i) for i, n in enumerate((5, 9, 9)))
    for attend in (sdpa, ScaledDotProduct("math")):
        for lengths in (None, torch.tensor([3, 9])):
            compiled = torch.compile(lambda *x, attend=attend: attend(*x), fullgraph=True, backend="eager")
            assert torch.allclose(compiled(q, k, v, lengths), plain(q, k, v, lengths))


def test_without_lengths_there_is_no_mask_and_nothing_is_read_back() -> None:
    """Meta tensors have no values: whatever would wait for the device raises."""
    q = torch.empty(1, 5, 2, 8, device="meta")
    assert sdpa(q, q, q, torch.empty(1, dtype=torch.int64, device="meta")).shape == q.shape
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        sdpa(q, q, q)
    assert not [event.name for event in profile.events() if "arange" in event.name]


def test_padding_is_a_sequence_that_nobody_queries() -> None:
    """Attention over sequences told by their starts, in plain float64, is attention with lengths."""
    q, k, v = (drawn(3, n, 2, 8, seed=i) for i, n in enumerate((5, 9, 9)))
    lengths = torch.tensor([3, 9, 1])
    query_starts, key_starts = (starts.tolist() for starts in padded_sequences(lengths, 5, 9))
    assert (query_starts[-1], key_starts[-1]) == (15, 27)
    rows = [x.flatten(0, 1) for x in (q, k, v)]
    parts = []
    for i in range(len(query_starts) - 1):
        own = slice(query_starts[i], query_starts[i + 1])
        read = slice(key_starts[i], key_starts[i + 1])
        if own.start < own.stop:
            parts.append(plain(rows[0][own][None], rows[1][read][None], rows[2][read][None])[0])
    assert torch.allclose(torch.cat(parts).unflatten(0, (3, 5)), plain(q, k, v, lengths))


def test_what_attends_is_said() -> None:
    assert isinstance(sdpa, Described)
    assert sdpa.describe("cpu", torch.float32).startswith("sdpa on cpu")
    assert "math" in ScaledDotProduct("math").describe("cpu", torch.float32)


def test_flash_attention_that_is_not_installed_names_its_extra() -> None:
    component = installed_catalog().find("attention", "flash-attn").component
    for version in ("2", "3", "auto"):
        if version in installed() or (version == "auto" and installed()):
            continue
        with pytest.raises(UserError, match="flash"):
            flash_attention(version)
        with pytest.raises(UserError, match=r"ovikit\[flash\]"):
            component.build(component.config(version=version))


def test_keys_that_are_whole_are_read_by_the_inner_attend() -> None:
    class Spread:
        local = sdpa

        def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
            return sdpa(query, key, value, lengths)

    assert isinstance(Spread(), SpreadAttend)
    assert whole_keys(Spread()) is sdpa
    assert whole_keys(sdpa) is sdpa
