"""Ovi's joint model on two and on four processes computes what it computes on one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_cases import ALSO_IN_FLOAT32, CASES, CHECKPOINTED, GUIDANCES, LAYOUTS, promised

WORKER = Path(__file__).with_name("parallel_worker.py")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the processes found."""
    world, out = request.param, tmp_path_factory.mktemp("parallel")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(out)],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    ended = [(one.communicate(timeout=300)[1], one.returncode) for one in started]
    assert all(code == 0 for _, code in ended), "\n".join(told[-3000:] for told, _ in ended)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(world)]


def worst(found: list[dict[str, Any]], name: str) -> float:
    return max(one["differences"][name] for one in found)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_spread_tokens_give_the_velocity_of_one_process(found, dtype: torch.dtype) -> None:
    cases = CASES if dtype == torch.float64 else ALSO_IN_FLOAT32
    differences = {case: worst(found, f"{case} {dtype}") for case in cases}
    assert {case: value for case, value in differences.items() if not value < TOLERANCE[dtype]} == {}


@pytest.mark.parametrize(("how", "cases"), [("", CASES), (", checkpointed", CHECKPOINTED)], ids=["", "checkpointed"])
def test_the_mean_of_their_gradients_is_the_gradient_of_one_process(found, how: str, cases: Sequence[str]) -> None:
    differences = {case: worst(found, f"gradient, {case}{how}") for case in cases}
    assert {case: value for case, value in differences.items() if not value < TOLERANCE[torch.float64]} == {}


def test_one_model_takes_clips_of_many_sizes(found) -> None:
    assert worst(found, "clips of many sizes") < 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_whole_loop_gives_the_latents_of_one_process(found, guidance: str, dtype: torch.dtype) -> None:
    for layout, batched in product(LAYOUTS[len(found)], ("", ", batched")):
        name = f"{guidance}, sequence {layout.sequence} guidance {layout.guidance}{batched} {dtype}"
        assert worst(found, name) < 10 * TOLERANCE[dtype]  # three guided steps


def test_what_is_sent_is_what_was_counted_beforehand(found) -> None:
    assert found[0]["sent"] == promised(len(found))


def test_each_process_hears_of_all(found) -> None:
    assert all(one["told"] == [{"rank": rank} for rank in range(len(found))] for one in found)
