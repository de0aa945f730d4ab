"""Shares of tokens, shares of work, and processes that start and fail together; no model is needed for these."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ovikit.errors import UserError
from ovikit.networks.attention import SpreadAttend, sdpa, whole_keys
from ovikit.networks.joint import WHOLE
from ovikit.recipe.models import Parallel
from ovikit.runtime.parallel import (
    Peers,
    TokenPartition,
    attention_bytes,
    cut_noise,
    gathers_keys,
    head_counts,
    spread_over,
)
from ovikit.runtime.processes import Layout, Processes, is_main
from ovikit.types import NoiseConditioning, Rotation, Stream

ROOT = Path(__file__).parents[2]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stream(tokens: int, spans: tuple[int, ...] | None = None) -> Stream:
    spans = spans or (tokens,)
    noise = NoiseConditioning(drawn(2, len(spans), 4), drawn(2, len(spans), 6, 4, seed=1), spans)
    by = {
        use: Rotation(drawn(tokens, 2, seed=i), drawn(tokens, 2, seed=i + 5))
        for i, use in enumerate(("self", "fusion"))
    }
    return Stream(drawn(2, tokens, 4, seed=2), noise, drawn(2, 3, 4, seed=3), by)  # type: ignore[arg-type]


def place(rank: int, size: int) -> Peers:
    """A place among processes that are not there: cutting needs no connection."""
    return Peers(None, rank, size)  # type: ignore[arg-type]


@pytest.mark.parametrize(("total", "processes"), [(12, 4), (11, 4), (5, 4), (2, 4), (1, 8), (157, 8)])
def test_the_shares_of_all_processes_are_the_stream(total: int, processes: int) -> None:
    whole = stream(total)
    shares = [TokenPartition(place(rank, processes)).spread(whole) for rank in range(processes)]
    assert len({share.tokens.shape for share in shares}) == 1
    assert torch.equal(torch.cat([share.tokens for share in shares], dim=1)[:, :total], whole.tokens)
    for use in ("self", "fusion"):
        for part in ("cos", "sin"):
            cut = torch.cat([getattr(share.rotations[use], part) for share in shares])
            assert torch.equal(cut[:total], getattr(whole.rotations[use], part))


@pytest.mark.parametrize("spans", [(12,), (3, 9), (1, 11), (11, 1), (6, 6), (5, 0, 7), (0, 12)])
@pytest.mark.parametrize("processes", [1, 2, 4, 5])
def test_every_token_keeps_its_noise_level(spans: tuple[int, ...], processes: int) -> None:
    noise, share = stream(12, spans).noise, -(-12 // processes)

    def by_token(one: NoiseConditioning) -> Tensor:
        return one.embedding.repeat_interleave(torch.tensor(one.spans), dim=1)

    shares = [cut_noise(noise, rank * share, share) for rank in range(processes)]
    assert all(sum(one.spans) == share and 0 not in one.spans[:1] for one in shares)
    assert torch.equal(torch.cat([by_token(one) for one in shares], dim=1)[:, :12], by_token(noise))
    assert all(torch.equal(one.embedding[:, -1], noise.embedding[:, -1]) for one in shares), "the last level is lost"


@pytest.mark.parametrize("processes", [2, 3, 4, 8])
def test_a_share_tells_its_streams_tokens(processes: int) -> None:
    """Whatever two streams meet, and whatever was seen before them."""
    partition = TokenPartition(place(0, processes))
    for video in range(1, 20):
        for audio in range(1, 20):
            shares = {n: partition.spread(stream(n)).tokens.shape[1] for n in (video, audio)}
            assert [partition.total(shares[n]) for n in (video, audio)] == [video, audio]
            assert all(-(-n // processes) <= share <= -(-n // processes) + 1 for n, share in shares.items())


def test_tokens_that_are_no_streams_are_refused() -> None:
    partition = TokenPartition(place(0, 2))
    partition.spread(stream(8))
    with pytest.raises(
        UserError, match=r"runtime\.parallel\.sequence or training\.trainer\.sequence: attention was asked for 9 tokens"
    ):
        partition.total(9)


def test_text_is_read_by_the_local_attention() -> None:
    spread = spread_over(place(0, 2))
    attend = spread.attend(sdpa)
    assert isinstance(attend, SpreadAttend)
    assert whole_keys(attend) is sdpa


def test_processes_that_have_not_met_exchange_shapes_alone() -> None:
    """In the default group others would answer."""
    with pytest.raises(RuntimeError, match="have not met"):
        place(0, 2).gather(torch.ones(2, 3))
    given = torch.ones(2, 3, device="meta", requires_grad=True)
    gathered = place(0, 3).gather(place(0, 3).exchange(given, [1, 1, 0], [1, 1, 1]))
    assert gathered.shape == (3, 3, 3)
    gathered.sum().backward()
    assert given.grad is not None
    assert given.grad.shape == given.shape


def test_heads_are_shared_out_evenly() -> None:
    assert head_counts(24, 8) == [3] * 8
    assert head_counts(5, 4) == [2, 1, 1, 1]
    assert all(sum(head_counts(h, p)) == h for h in range(1, 30) for p in range(1, 9))


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_cheaper_exchange_is_taken(processes: int) -> None:
    heads, options = 24, {"heads": 24, "head_width": 2, "processes": processes, "item_bytes": 2}
    for query, key in ((15004, 157), (157, 15004), (800, 800), (8000, 1000), (8000, 2000)):
        q, k = -(-query // processes), -(-key // processes)
        by_keys = 2 * k * heads * (processes - 1)
        by_heads = (2 * q + 2 * k) * heads * (processes - 1) // processes
        assert gathers_keys(q, k, heads, processes) == (by_keys < by_heads)
        assert attention_bytes(query, key, **options) == pytest.approx(min(by_keys, by_heads) * 4, rel=0.01)


def test_ranks_are_shared_out_once() -> None:
    layout = Layout(rank=5, world=8, sequence=2, guidance=2)
    assert (layout.groups, layout.group, layout.size) == (2, 1, 4)
    assert layout.in_group() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert layout.in_sequence() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.in_guidance() == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_numbers_that_do_not_fit_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        UserError, match=r"there are 6 processes.* 4 together(.|\n)*start 4, 8, 12(.|\n)*sequence to 1, 3"
    ):
        Layout(rank=0, world=6, sequence=2, guidance=2)
    with pytest.raises(UserError, match=r"there is 1 process(.|\n)*torchrun --nproc-per-node 2"):
        Processes.start(Parallel(sequence=2))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_every_job_has_one_group(groups: int) -> None:
    jobs = list(range(7))
    shares = [Processes(Layout(rank, 2 * groups, 2, 1), torch.device("cpu")).share(jobs) for rank in range(2 * groups)]
    assert sorted(job for share in shares[::2] for job in share) == jobs
    assert shares[::2] == shares[1::2]


def test_one_process_needs_nobody() -> None:
    with Processes.start(Parallel(), "cpu") as processes:
        assert (processes.main, processes.writer, is_main()) == (True, True, True)
        assert processes.share("ab") == ["a", "b"]
        assert processes.by_main(lambda: 1) == processes.by_writer(lambda: 1) == processes.collect(1)[0]
        assert processes.spread.partition is WHOLE
        assert processes.spread.attend(sdpa) is sdpa
        assert processes.network(len) is len  # type: ignore[arg-type]
        processes.barrier()


def run_together(code: str, world: int = 2, **changes: str) -> list[subprocess.CompletedProcess[str]]:
    """What becomes of processes that run the same code, with the errors of the user as the command line tells them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    start = (
        "import os, sys\nfrom ovikit.errors import UserError\nfrom ovikit.recipe.models import Parallel\n"
        "from ovikit.runtime.processes import Processes\nrank = int(os.environ['RANK'])\n"
    )
    body = "\n".join(f"    {line}" for line in code.splitlines())
    end = "\nexcept UserError as error:\n    print(error)\n    sys.exit(2)\n"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"{start}try:\n{body}{end}"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=os.environ | place | {"RANK": str(r), "LOCAL_RANK": str(r)} | changes,
        )
        for r in range(world)
    ]  # fmt: skip
    outputs = [one.communicate(timeout=120)[0] for one in started]
    return [subprocess.CompletedProcess((), one.returncode, out) for one, out in zip(started, outputs, strict=True)]


def test_the_first_process_speaks_for_all_and_its_error_is_everyones() -> None:
    code = (
        "with Processes.start(Parallel(sequence=2)) as processes:\n"
        "    assert processes.by_main(lambda: [rank, 'ö']) == [0, 'ö']\n"
        "    assert processes.collect({'rank': rank}) == [{'rank': 0}, {'rank': 1}]\n"
        "def fail():\n    raise UserError('it is not there', 'weights', 'look')\n"
        "with Processes.start(Parallel(sequence=2)) as processes:\n    processes.by_writer(fail)"
    )
    for done in run_together(code):
        assert (done.returncode, done.stdout) == (2, "weights: it is not there\n  look\n")


def test_who_waits_for_a_process_that_has_failed_is_told() -> None:
    code = (
        "with Processes.start(Parallel(sequence=2)) as processes:\n"
        "    processes.barrier()\n"
        "    if rank == 1:\n        os._exit(9)\n"
        "    processes.collect(0)"
    )
    left, gone = run_together(code)
    assert gone.returncode == 9
    assert left.returncode == 2
    assert left.stdout.startswith("another process of this run has failed or does not answer\n")


def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UserError, match="WORLD_SIZE is 'many'"):
        Processes.start(Parallel())
