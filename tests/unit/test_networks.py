"""Rotations and attention, apart from any model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.rotary import rotate, rotation


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_rotation_is_multiplication_by_a_unit_complex_number() -> None:
    angles, x = drawn(5, 4), drawn(2, 5, 3, 8, seed=1)
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)
    assert torch.allclose(rotate(x, rotation(angles, "cpu", x.dtype)), expected, atol=1e-15)


def test_rotation_keeps_norms_and_scores_see_only_differences_of_angle() -> None:
    angles, q, k = drawn(6, 4), drawn(1, 6, 1, 8, seed=1), drawn(1, 6, 1, 8, seed=2)
    turned, shifted = (rotation(a, "cpu", q.dtype) for a in (angles, angles + 0.7))
    assert torch.allclose(rotate(q, turned).norm(dim=-1), q.norm(dim=-1))
    scores = [torch.einsum("bnhd,bmhd->bhnm", rotate(q, by), rotate(k, by)) for by in (turned, shifted)]
    assert torch.allclose(*scores, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_kept_in_float32_and_gives_back_the_input_dtype(dtype: torch.dtype) -> None:
    by = rotation(drawn(3, 4), "cpu", dtype)
    assert by.cos.dtype == torch.float32
    assert rotate(drawn(1, 3, 2, 8, dtype=dtype), by).dtype == dtype


def test_attention_is_the_softmax_average() -> None:
    q, k, v = (drawn(2, n, 3, 4, seed=i) for i, n in enumerate((5, 7, 7)))
    weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(4)).softmax(-1)
    assert torch.allclose(sdpa(q, k, v), torch.einsum("bhnm,bmhd->bnhd", weights, v))


def test_attention_never_reads_past_the_lengths() -> None:
    q, k, v = (drawn(2, n, 3, 4, seed=i) for i, n in enumerate((5, 7, 7)))
    lengths = torch.tensor([3, 7])
    masked = sdpa(q, k, v, lengths)
    assert torch.allclose(masked[:1], sdpa(q[:1], k[:1, :3], v[:1, :3]))
    assert torch.allclose(masked[1:], sdpa(q[1:], k[1:], v[1:]))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 5), nn.LayerNorm(5), nn.Conv1d(5, 2, 3)


def test_initialise_depends_on_the_generator_alone() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        with torch.device("meta"):
            net = Net()
        net.to_empty(device="cpu")
        before = torch.random.get_rng_state()
        initialise(net, torch.Generator().manual_seed(seed))
        assert torch.equal(before, torch.random.get_rng_state()), "the global generator was used"
        return net.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["first.weight"], other["first.weight"])
    assert all(torch.isfinite(value).all() for value in first.values())


def test_initialise_names_a_module_that_does_not_say_how_to_draw_its_weights() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(TypeError, match=r"0 \(Silent\) owns weights"):
        initialise(nn.Sequential(Silent()), torch.Generator())
