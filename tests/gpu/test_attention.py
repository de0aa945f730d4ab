"""Every attention backend of the device against a softmax in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.networks.attention import ScaledDotProduct
from ovikit.networks.flash import FlashAttention, flash_attention, installed

pytestmark = pytest.mark.gpu


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
    out = []
    for i in range(q.shape[0]):
        m = k.shape[1] if lengths is None else int(lengths[i])
        q_, k_, v_ = (x.double() for x in (q[i], k[i, :m], v[i, :m]))
        weights = (torch.einsum("nhd,mhd->hnm", q_, k_) / math.sqrt(q.shape[-1])).softmax(-1)
        out.append(torch.einsum("hnm,mhd->nhd", weights, v_))
    return torch.stack(out)


def attends() -> dict[str, ScaledDotProduct | FlashAttention]:
    named = {f"sdpa-{name}": ScaledDotProduct(name) for name in ("auto", "flash", "cudnn", "efficient", "math")}
    return named | {f"flash-attn-{version}": flash_attention(version) for version in installed()}


def usable(name: str) -> ScaledDotProduct | FlashAttention:
    """The ``attend`` of that name; the test is skipped where the device does not run it."""
    attend = attends()[name]
    try:
        attend.describe("cuda", torch.bfloat16)
    except UserError as error:
        pytest.skip(str(error))
    return attend


@pytest.mark.parametrize("name", list(attends()))
@pytest.mark.parametrize("sizes", [(300, 300), (157, 1000), (1000, 157), (300, 512)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_softmax_average(name: str, sizes: tuple[int, int], masked: bool) -> None:
    attend = usable(name)
    n, m = sizes
    q, k, v = (drawn(2, length, 4, 128, seed=i, dtype=torch.bfloat16) for i, length in enumerate((n, m, m)))
    lengths = torch.tensor([m, m // 3], device="cuda") if masked else None
    expected = plain(q, k, v, lengths)
    found = attend(q, k, v, lengths)
    assert (found - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("name", list(attends()))
def test_attention_without_lengths_never_waits_for_the_device(name: str) -> None:
    attend = usable(name)
    q = drawn(1, 256, 4, 128, seed=0, dtype=torch.bfloat16)
    attend(q, q, q, None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        attend(q, q, q, None)
        attend(q, q, q, torch.full((1,), 100, device="cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("name", list(attends()))
def test_attention_compiles_whole(name: str) -> None:
    attend = usable(name)
    q = drawn(1, 256, 4, 128, seed=0, dtype=torch.bfloat16)
    found = torch.compile(lambda *x: attend(*x, None), fullgraph=True)(q, q, q)
    assert torch.allclose(found, attend(q, q, q, None), atol=2e-2)
