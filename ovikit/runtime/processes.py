"""The processes of one run, as ``torchrun`` starts them: which works on what, and what they tell each other.

``sequence`` neighbouring processes share the tokens of a clip, ``guidance`` such rows share its passes, and together
they are a group. Groups share the clips. Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ovikit.errors import UserError, listed
from ovikit.numerics.protocols import Network
from ovikit.recipe.build import ONE_PROCESS, Spread
from ovikit.recipe.models import Parallel
from ovikit.runtime.parallel import PassesInParallel, Peers, refuse_lost, spread_over

T = TypeVar("T")

ANSWER_WITHIN = timedelta(minutes=20)
"""How long an exchange within a clip waits: the first process of a group also decodes and writes in between."""
FINISH_WITHIN = timedelta(days=7)
"""How long the groups wait for each other's clips. A process that ends is noticed at once."""
_WHERE = "runtime.parallel"
_starts = count()


def is_main() -> bool:
    """Whether this process speaks for the run: the first that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True, slots=True)
class Layout:
    """The place of one process. UserError where the numbers do not fit.

    Ranks count the tokens' shares first, so that the processes which exchange most are neighbours.
    """

    rank: int
    world: int
    sequence: int
    guidance: int

    def __post_init__(self) -> None:
        if self.world % self.size == 0:
            return
        asked = f"{self.sequence} for the tokens of a clip" + (" x 2 for its passes" if self.guidance == 2 else "")
        fitting = [str(s) for s in range(1, self.world + 1) if self.world % (s * self.guidance) == 0]
        other = f", or set sequence to {listed(fitting)}" if fitting else ""
        started = "there is 1 process" if self.world == 1 else f"there are {self.world} processes"
        raise UserError(
            f"{started}, but clips are to be made by {self.size} together ({asked})",
            _WHERE,
            f"start {self.size}, {2 * self.size}, {3 * self.size}, ...: "
            f"torchrun --nproc-per-node {self.size} -m ovikit generate ...{other}",
        )

    @property
    def size(self) -> int:
        """Processes of a group."""
        return self.sequence * self.guidance

    @property
    def groups(self) -> int:
        return self.world // self.size

    @property
    def group(self) -> int:
        """Which group this process belongs to."""
        return self.rank // self.size

    def in_group(self) -> list[list[int]]:
        """The ranks of each group."""
        return [list(range(first, first + self.size)) for first in range(0, self.world, self.size)]

    def in_sequence(self) -> list[list[int]]:
        """The ranks that share the tokens of a pass, for every pass of every group."""
        return [list(range(first, first + self.sequence)) for first in range(0, self.world, self.sequence)]

    def in_guidance(self) -> list[list[int]]:
        """The ranks that have the same tokens of different passes."""
        return [ranks[i :: self.sequence] for ranks in self.in_group() for i in range(self.sequence)]


class Processes:
    """This process among those of a run. Use it as a context: leaving it ends the connection."""

    def __init__(
        self,
        layout: Layout,
        device: torch.device,
        *,
        tokens: Peers | None = None,
        passes: Peers | None = None,
        run: dist.ProcessGroup | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.layout, self.device = layout, device
        self.spread: Spread = ONE_PROCESS if tokens is None else spread_over(tokens)
        self._passes, self._run, self._group = passes, run, group

    @classmethod
    def start(cls, parallel: Parallel, device: torch.device | str = "cpu") -> Processes:
        """The processes of torchrun's environment. UserError where their number does not fit the recipe's, where there
        are fewer GPUs than processes on this machine, or where they cannot connect."""
        layout = Layout(_number("RANK", 0), _number("WORLD_SIZE", 1), parallel.sequence, parallel.guidance)
        if layout.world == 1:
            return cls(layout, torch.device(device))
        own = _own_device(torch.device(device), _number("LOCAL_RANK", layout.rank))
        try:
            return cls._connected(layout, own)
        except RuntimeError as error:
            raise UserError(
                "the processes of this run cannot connect",
                hint=f"start them with torchrun; this one saw: {str(error).strip().splitlines()[0]}",
            ) from error

    @classmethod
    def _connected(cls, layout: Layout, device: torch.device) -> Processes:
        values = "nccl" if device.type == "cuda" else "gloo"
        store = dist.PrefixStore(f"ovikit/{next(_starts)}", _meeting_point())
        dist.init_process_group("gloo", store=store, rank=layout.rank, world_size=layout.world, timeout=ANSWER_WITHIN)

        def peers(rows: list[list[int]], backend: str, timeout: timedelta) -> tuple[dist.ProcessGroup, list[int]]:
            made = [(dist.new_group(row, timeout=timeout, backend=backend), row) for row in rows]  # all make all
            return next((group, row) for group, row in made if layout.rank in row)

        def several(rows: list[list[int]]) -> Peers | None:
            if len(rows[0]) == 1:
                return None
            group, row = peers(rows, values, ANSWER_WITHIN)
            return Peers(group, row.index(layout.rank), len(row))

        return cls(
            layout,
            device,
            tokens=several(layout.in_sequence()),
            passes=several(layout.in_guidance()),
            run=peers([list(range(layout.world))], "gloo", FINISH_WITHIN)[0],
            group=peers(layout.in_group(), "gloo", FINISH_WITHIN)[0],
        )

    @property
    def main(self) -> bool:
        """Whether this process speaks for the run."""
        return self.layout.rank == 0

    @property
    def writer(self) -> bool:
        """Whether this process writes its group's clips."""
        return self.layout.rank % self.layout.size == 0

    def share(self, jobs: Sequence[T]) -> list[T]:
        """This group's part of the jobs. It depends on nothing but the list and the number of groups, so a run that
        is continued by as many processes is shared out as before."""
        return list(jobs[self.layout.group :: self.layout.groups])

    def network(self, network: Network) -> Network:
        """The network for ``sample``, with the passes of a step shared out where the recipe says so."""
        return network if self._passes is None else PassesInParallel(network, self._passes)

    def by_main(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the first process of the run, in all of them: it runs there alone.

        The result must be plain JSON. A UserError is raised in all processes.
        """
        return work() if self.layout.world == 1 else self._by(0, self._run, work)

    def by_writer(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in the first process of this group, in all of the group: see ``by_main``."""
        if self.layout.size == 1:
            return work()
        return self._by(self.layout.group * self.layout.size, self._group, work)

    def _by(self, source: int, group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
        told: dict[str, Any] = {}
        if self.layout.rank == source:
            try:
                told = {"value": work()}
            except UserError as error:
                told = {"error": [error.what, error.where, error.hint]}
        told = json.loads(_broadcast(json.dumps(told).encode(), source, self.layout.rank, group))
        if "error" in told:
            raise UserError(*told["error"])
        return told["value"]

    def collect(self, value: T) -> list[T]:
        """The plain JSON values of all processes, by rank: waits for all of them."""
        if self.layout.world == 1:
            return [value]
        text = json.dumps(value).encode()
        return [json.loads(_broadcast(text, rank, self.layout.rank, self._run)) for rank in range(self.layout.world)]

    def barrier(self) -> None:
        """Waits for all processes."""
        self.collect(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error, NCCL's end would wait for exchanges that never come; the end of the process does not.
        if self.layout.world > 1 and (kind is None or self.device.type == "cpu"):
            dist.destroy_process_group()


@contextmanager
def connected(device: torch.device) -> Iterator[None]:
    """Connects the processes that torchrun started, for what is spread over ``torch.distributed``'s default group;
    each has the GPU of its number where ``device`` is one. Without torchrun this does nothing."""
    rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if world == 1:
        yield
        return
    _own_device(device, _number("LOCAL_RANK", rank))
    store = dist.PrefixStore(f"ovikit/{next(_starts)}", _meeting_point())
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=FINISH_WITHIN)
    try:
        yield
    finally:
        dist.destroy_process_group()


@cache
def _meeting_point() -> dist.Store:
    """Where the processes find each other. Kept, so that one process can start several times."""
    return next(dist.rendezvous("env://", timeout=ANSWER_WITHIN))[0]


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"{name} is '{text}', which is no number", "environment", "it is torchrun's to set")
    return int(text)


def _own_device(device: torch.device, local: int) -> torch.device:
    """The device of the ``local``-th process of this machine."""
    if device.type != "cuda":
        return device
    found = torch.cuda.device_count()
    if local >= found:
        raise UserError(
            f"process {local + 1} on this machine has no GPU of its own: there are {found}",
            "--device",
            f"start at most {found} with --nproc-per-node",
        )
    own = torch.device("cuda", local)
    torch.cuda.set_device(own)
    return own


def _broadcast(text: bytes, source: int, rank: int, group: dist.ProcessGroup | None) -> bytes:
    """The bytes of the process ``source``, in all of the group."""

    def from_source(value: Tensor) -> Tensor:
        try:
            dist.broadcast(value, source, group=group)
        except RuntimeError as error:
            refuse_lost(error)
            raise
        return value

    size = int(from_source(torch.tensor([len(text)]))[0])
    data = bytearray(text) if rank == source else bytearray(size)
    return bytes(from_source(torch.frombuffer(data, dtype=torch.uint8)).tolist())
