"""The shapes that signatures and fields declare are checked in tests (tests/conftest.py), and nowhere else."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib import import_module
from typing import get_type_hints

import jaxtyping
import pytest
import torch
from jaxtyping import TypeCheckError

from ovikit.networks.attention import sdpa
from ovikit.networks.rotary import rotate, rotation
from ovikit.numerics import path
from ovikit.types import Clip, Text

ANNOTATED = [
    "ovikit.networks.attention", "ovikit.networks.flash", "ovikit.networks.joint", "ovikit.networks.protocols",
    "ovikit.networks.rotary",
    "ovikit.networks.stages", "ovikit.numerics.path", "ovikit.types",
    "ovikit_ovi.fusion", "ovikit_ovi.positions", "ovikit_ovi.tower",
]  # fmt: skip
pytestmark = pytest.mark.skipif(jaxtyping.config.jaxtyping_disable, reason="JAXTYPING_DISABLE is set")
HIDDEN = "OVIKIT_TEST_WITHOUT_PLUGINS" in os.environ


@pytest.mark.parametrize("name", [name for name in ANNOTATED if not (HIDDEN and name.startswith("ovikit_"))])
def test_a_module_is_checked_and_its_annotations_can_be_read(name: str) -> None:
    """An annotation that cannot be evaluated would go unchecked without a word."""
    module = import_module(name)
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
    functions = [value for value in own if inspect.isfunction(value)]
    methods = [value for one in own if inspect.isclass(one) for value in vars(one).values()]
    functions += [value for value in methods if inspect.isfunction(value) and value.__module__ == name]
    assert any(hasattr(function, "__wrapped__") for function in functions), "the import hook came too late"
    for value in (*functions, *(one for one in own if inspect.isclass(one))):
        get_type_hints(value, include_extras=True)


def test_rotate_refuses_another_shape_and_another_dtype() -> None:
    by = rotation(torch.zeros(5, 4, dtype=torch.float64), "cpu", torch.float32)
    assert rotate(torch.zeros(2, 5, 3, 8), by).shape == (2, 5, 3, 8)
    with pytest.raises(TypeCheckError):
        rotate(torch.zeros(2, 5, 8), by)
    with pytest.raises(TypeCheckError):
        rotate(torch.zeros(2, 5, 3, 8, dtype=torch.int64), by)


def test_attention_refuses_tensors_that_do_not_fit_together() -> None:
    query, key = torch.zeros(2, 5, 3, 4), torch.zeros(2, 7, 3, 4)
    assert sdpa(query, key, key, torch.tensor([3, 7])).shape == query.shape
    refused = [
        (query, key, key[:, 1:], None),
        (query, key[:1], key[:1], None),
        (query, key.long(), key, None),
        (query, key, key, torch.tensor([3.0, 7.0])),
        (query, key, key, torch.tensor([3])),
    ]
    for arguments in refused:
        with pytest.raises(TypeCheckError):
            sdpa(*arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_float_dtype_passes_also_without_storage(dtype: torch.dtype, device: str) -> None:
    q = torch.zeros(1, 5, 2, 4, dtype=dtype, device=device)
    assert sdpa(q, q, q).shape == q.shape


def test_fields_are_checked_where_they_are_set() -> None:
    with pytest.raises(TypeCheckError):
        Text(torch.zeros(2, 4, 8), torch.tensor([4, 4, 4]))
    with pytest.raises(TypeCheckError):
        Clip("name", "prompt", torch.zeros(4, 8, 8, 3), None, 4.0, 16000)


def test_data_and_noise_must_be_alike() -> None:
    with pytest.raises(TypeCheckError):
        path.mix(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1), torch.zeros(2))


def test_outside_tests_nothing_is_checked() -> None:
    code = (
        "import sys\nfrom ovikit.networks.attention import sdpa\n"
        "print(hasattr(sdpa, '__wrapped__'), 'beartype' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False False\n"
