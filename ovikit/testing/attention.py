"""The contract of attention kernels: softmax(q k / sqrt(d)) v, of the keys that are valid."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ovikit.networks.protocols import Attend
from ovikit.testing.contract import Contract, global_generators_unused
from ovikit.testing.reference import drawn

_SIZES = ((2, 7, 7, 2, 16), (2, 5, 9, 3, 8), (1, 1, 4, 1, 64))  # batch, queries, keys, heads, head width


class AttentionContract(Contract):
    """Subclass it and name the component.

    device:    where the kernel runs; the checks are skipped where that is not there
    dtype:     a format that it takes
    tolerance: how far results may be off, relative to the largest value
    """

    kind = "attention"
    device: ClassVar[str] = "cpu"
    dtype: ClassVar[torch.dtype] = torch.float64
    tolerance: ClassVar[float] = 1e-9

    def setup_method(self) -> None:
        super().setup_method()
        if self.device == "cuda" and not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")

    def _qkv(self, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        b, n, m, h, d = size
        shapes = ((b, n, h, d), (b, m, h, d), (b, m, h, d))
        query, key, value = (
            drawn(*shape, seed=seed).to(self.device, self.dtype) for seed, shape in enumerate(shapes, start=1)
        )
        return query, key, value

    def _off(self, found: Tensor, wanted: Tensor) -> float:
        return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())

    def test_it_is_softmax_attention(self) -> None:
        """Values weighted by the softmax of the scaled products, in the shape and format of the queries."""
        attend: Attend = self.build()
        for size in _SIZES:
            query, key, value = self._qkv(size)
            found = attend(query, key, value, None)
            assert found.shape == query.shape, f"queries {tuple(query.shape)} become {tuple(found.shape)}"
            assert found.dtype == query.dtype, f"{query.dtype} queries become {found.dtype}"
            off = self._off(found, _plain(query, key, value))
            assert off < self.tolerance, f"attention of {size} is {off:.2g} off the formula; scale by 1 / sqrt(d)"

    def test_keys_past_the_length_are_not_read(self) -> None:
        """With lengths, what stands behind an item's length changes nothing."""
        attend: Attend = self.build()
        for size in _SIZES:
            query, key, value = self._qkv(size)
            lengths = torch.arange(1, size[0] + 1, device=self.device)
            found = attend(query, key, value, lengths)
            for i, length in enumerate(lengths.tolist()):
                cut = _plain(query[i : i + 1], key[i : i + 1, :length], value[i : i + 1, :length])
                off = self._off(found[i : i + 1], cut)
                assert off < self.tolerance, (
                    f"an item of length {length} is {off:.2g} off its first {length} keys alone"
                )

    def test_the_order_of_keys_does_not_matter(self) -> None:
        """Keys are a set: their order is told by rotations alone."""
        attend: Attend = self.build()
        for size in _SIZES:
            query, key, value = self._qkv(size)
            order = torch.randperm(size[2], generator=torch.Generator().manual_seed(0)).to(self.device)
            off = self._off(attend(query, key[:, order], value[:, order], None), attend(query, key, value, None))
            assert off < self.tolerance, f"with its keys in another order attention is {off:.2g} off; no causal mask"

    def test_the_gradient_is_that_of_the_formula(self) -> None:
        """Training goes through it."""
        leaves = [x.requires_grad_() for x in self._qkv(_SIZES[1])]
        attend: Attend = self.build()
        found = torch.autograd.grad(attend(*leaves, None).square().sum(), leaves)
        wanted = torch.autograd.grad(_plain(*leaves).square().sum(), leaves)
        for name, one, other in zip(("queries", "keys", "values"), found, wanted, strict=True):
            off = self._off(one, other)
            assert off < 10 * self.tolerance, f"the gradient of the {name} is {off:.2g} off the formula's"

    def test_global_random_numbers_are_left_alone(self) -> None:
        """There is no dropout in it."""
        with global_generators_unused(f"the attention '{self.found().name}'"):
            self.build()(*self._qkv(_SIZES[0]), None)


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.einsum("bnhd,bmhd->bhnm", query, key) / query.shape[-1] ** 0.5
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(dim=-1), value)
