"""Small honest components to try the contracts with; a test breaks one thing of one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from ovikit.kernel.component import Component, Config, NoOptions
from ovikit.networks.precision import Precision
from ovikit.networks.protocols import Attend, Block
from ovikit.networks.rotary import rotate
from ovikit.networks.stages import context_stage, feed_forward_stage, self_stage
from ovikit.testing.contract import Contract
from ovikit.types import AV, MODALITIES, Modality, Stream


def failures(contract: type[Contract], component: Component, only: tuple[str, ...] = (), **told: Any) -> dict[str, str]:
    """The checks of a contract (or ``only`` some) that fail for a component, and what each says.

    told: what the author declares
    """
    case = type("Case", (contract,), {"component": component, **told})()
    found: dict[str, str] = {}
    for name in dir(case):
        if not name.startswith("test_") or name == "test_unchanged_under_the_compiler" or (only and name not in only):
            continue
        try:
            getattr(case, name)()
        except (AssertionError, pytest.fail.Exception) as error:
            found[name] = str(error)
        except pytest.skip.Exception:
            pass
    return found


def caught(found: dict[str, str], check: str, *words: str) -> None:
    """The one check that fails is this one, and it says these words."""
    assert list(found) == [check], found
    missing = [word for word in words if word not in found[check]]
    assert not missing, (missing, found[check])


def component(kind_build: Callable[..., Any], config: type[Config] = NoOptions) -> Component:
    return Component("example", config, kind_build, "an example")


# a fusion: each stream adds what it reads of the other one, behind a gate


class Reader(nn.Module):
    def __init__(self, width: int, other: int, heads: int, attend: Attend, precision: Precision) -> None:
        super().__init__()
        self.heads, self.attend, self.precision = heads, attend, precision
        self.query, self.value = nn.Linear(width, width), nn.Linear(other, width)
        self.key = nn.Linear(other, width, bias=False)
        self.gate = nn.Parameter(torch.empty(width))

    def init_weights(self, generator: Generator) -> None:
        nn.init.constant_(self.gate, 0.1)

    def lengths(self, own: Stream, other: Stream) -> Tensor | None:
        return other.lengths

    def forward(self, own: Stream, other: Stream) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1))

        mine, theirs = self.precision.narrow(own.tokens), self.precision.narrow(other.tokens)
        query = rotate(split(self.query(mine)), own.rotations["fusion"])
        key = rotate(split(self.key(theirs)), other.rotations["fusion"])
        read = self.attend(query, key, split(self.value(theirs)), self.lengths(own, other))
        return self.gate * read.flatten(-2)


class Meeting(nn.Module):
    """``reader``: the class of the readers; ``reads``: which streams have one."""

    def __init__(
        self, width: AV[int], heads: AV[int], attend: Attend, precision: Precision, reader: type[Reader],
        reads: tuple[Modality, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self.attend = attend
        other: dict[Modality, Modality] = {"video": "audio", "audio": "video"}
        self.readers = nn.ModuleDict({m: reader(width[m], width[other[m]], heads[m], attend, precision) for m in reads})

    def forward(self, blocks: AV[Block], streams: AV[Stream]) -> AV[Stream]:
        mods = blocks.zip(streams, lambda block, stream: block.modulation(stream.noise))
        after = AV[Stream].of({m: self.before(blocks[m], s, mods[m]) for m, s in streams.items()})
        heard: dict[Modality, Stream] = {}
        for m, other in (("video", "audio"), ("audio", "video")):
            stream = after[m]
            if m in self.readers:
                stream = stream.with_tokens(stream.tokens + self.readers[m](after[m], after[other]))
            heard[m] = feed_forward_stage(blocks[m], stream, mods[m])
        return AV.of(heard)

    def before(self, block: Block, stream: Stream, mod: Any) -> Stream:
        return context_stage(block, self_stage(block, stream, mod, self.attend), self.attend)


def fusion(
    reader: type[Reader] = Reader,
    layer: type[Meeting] = Meeting,
    reads: tuple[Modality, ...] = MODALITIES,
    config: type[Config] = NoOptions,
    missing: int = 0,
    explained: bool = True,
) -> Component:
    """A fusion of gated readers, with one part exchanged."""

    def build(
        config: Config, *, depth: int, width: AV[int], heads: AV[int], attend: Attend, precision: Precision
    ) -> list[nn.Module]:
        if explained and width["video"] // heads["video"] != width["audio"] // heads["audio"]:
            raise ValueError("towers need heads of one width")
        return [layer(width, heads, attend, precision, reader, reads) for _ in range(depth - missing)]

    return component(build, config)


FUSION_TOLD: Mapping[str, Any] = {
    "neutral": ("*.gate",),
    "keys": tuple(
        f"readers.{m}.{name}"
        for m in MODALITIES
        for name in ("gate", "query.weight", "query.bias", "value.weight", "value.bias", "key.weight")
    ),
}
