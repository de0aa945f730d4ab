"""Times one guided step of the joint model at a few sizes, on whatever device there is.

    python benchmarks/forward.py                      # sizes that suit a CPU
    python benchmarks/forward.py --size small --repeat 10

Two tables. The first: tokens, FLOPs, time, FLOP/s and peak memory of a guided step (a prompt pass and a negative pass),
and the ratio to the same step computed plainly, in the three ways in which the released code is plain: the noise level
is embedded, projected and modulated per token; rotations are products of complex128 numbers, item by item; the text is
embedded and its keys and values are computed anew in every pass. Same weights, same output (the largest difference is
shown), same attention and matrix products, one thread on a CPU. What is done per pass and not per layer weighs more in
models of few layers than in the released one, which has 30. The second table counts, over three steps and one plain
step, what passes through the layers that need not run per token or per step.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel, PairLayer
from ovikit.networks.precision import Precision
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.runtime.passes import BoundNetwork
from ovikit.types import AV, Stream, Text, TokenGrid
from ovikit_ovi.fusion import ovi_fusion
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower


@dataclass(frozen=True)
class Size:
    """A model and a clip: video latents (t, y, x), audio latents t."""

    width: int
    heads: int
    depth: int
    video: tuple[int, int, int]
    audio: int
    text_length: int


SIZES = {
    "tiny": Size(96, 4, 3, (12, 8, 8), 62, 16),
    "small": Size(384, 6, 6, (16, 12, 12), 82, 64),
    "medium": Size(768, 12, 6, (31, 24, 24), 157, 128),
    "one-layer-of-ovi": Size(3072, 24, 1, (31, 8, 8), 157, 512),
    "one-layer-of-ovi-704": Size(3072, 24, 1, (31, 44, 44), 157, 512),
}
DEFAULT = ("tiny", "small", "one-layer-of-ovi")


@dataclass(frozen=True)
class Setup:
    """A built model with the inputs of one clip."""

    model: JointModel
    latents: AV[Tensor]
    grids: AV[TokenGrid]
    texts: tuple[AV[Text], AV[Text]]

    @property
    def tokens(self) -> AV[int]:
        return self.grids.map(lambda grid: len(self.model.tower(grid.modality).grid(grid)))


def build(size: Size, device: torch.device, dtype: torch.dtype) -> Setup:
    """The model with random weights, and random latents and texts."""
    text_width, precision = 128, Precision(dtype)
    towers = {
        m: OviTower(
            m, channels, text_width,
            width=size.width, feed_forward_width=size.width * 14 // 3, heads=size.heads, depth=size.depth,
            text_length=size.text_length, precision=precision,
        )
        for m, channels in (("video", 48), ("audio", 20))
    }  # fmt: skip
    pair = AV(size.width, size.width), AV(size.heads, size.heads)
    model = JointModel(
        AV.of(towers), ovi_fusion(size.depth, *pair, sdpa, precision=precision), IndexPositions(0.19676), sdpa
    )
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    for tower in towers.values():
        nn.init.normal_(tower.head.head.weight, std=0.02, generator=generator)  # it starts at zero: nothing to compare
    shapes = AV(video=(1, 48, *size.video), audio=(1, 20, size.audio))
    latents = shapes.map(lambda shape: torch.randn(shape, generator=generator).to(device, dtype))
    grids = AV(
        video=TokenGrid.uniform("video", size.video, 4 / 24),
        audio=TokenGrid.uniform("audio", (size.audio, 1, 1), 0.032),
    )
    texts = tuple(
        AV(text, text)
        for text in (
            Text(torch.randn((1, n, text_width), generator=generator).to(device, dtype), torch.tensor([n]))
            for n in (size.text_length // 2, size.text_length // 4)
        )
    )
    return Setup(model.to(device, dtype).eval(), latents, grids, texts)


GUIDANCE = ClassifierFree(AV(4.0, 4.0))


def bound(setup: Setup) -> BoundNetwork:
    """The model with its texts, as a run binds them: once per clip."""
    contexts = {
        name: setup.model.embed_text(text, cache=True)
        for name, text in zip((PROMPT, NEGATIVE), setup.texts, strict=True)
    }
    return BoundNetwork(setup.model, contexts, setup.grids, next(setup.latents.values()).dtype)


def guided(setup: Setup, network: BoundNetwork, sigma: float) -> AV[Tensor]:
    """Velocity of a guided step as the library computes it."""
    told = AV(sigma, sigma)
    return GUIDANCE.combine(network(setup.latents, told, GUIDANCE.passes(told)), setup.latents, told)


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """``x`` (b, n, h, d) rotated as complex128 numbers, item by item."""
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    done = []
    for item in x:
        pairs = torch.view_as_complex(item.to(torch.float64).unflatten(-1, (-1, 2)).contiguous())
        done.append(torch.view_as_real(pairs * turn).flatten(-2))
    return torch.stack(done).to(x.dtype)


def plain_layer(layer: PairLayer, streams: dict[str, Stream], angles: dict[str, Tensor]) -> dict[str, Stream]:
    """One layer of both towers, with nothing kept from another layer or pass."""
    mods = {m: layer.block(m).modulation(stream.noise) for m, stream in streams.items()}
    after = {}
    for m, stream in streams.items():
        query, key, value = layer.block(m).self_heads(stream.tokens, mods[m])
        attended = sdpa(turned(query, angles[m]), turned(key, angles[m]), value)
        after[m] = stream.with_tokens(layer.block(m).self_merge(stream.tokens, attended, mods[m]))
    out = {}
    for m, other in (("video", "audio"), ("audio", "video")):
        block, stream = layer.block(m), after[m]
        query, key, value = block.context_heads(stream.tokens, stream.context)
        heads = sdpa(query, key, value)
        key, value = layer.fusion.reads[m](after[other].tokens)
        heads = heads + sdpa(turned(query, angles[m]), turned(key, angles[other]), value)
        stream = stream.with_tokens(block.context_merge(stream.tokens, heads))
        out[m] = stream.with_tokens(block.feed_forward(stream.tokens, mods[m]))
    return out


def plain_pass(setup: Setup, text: AV[Text], sigma: float) -> AV[Tensor]:
    """Velocity of one pass with everything computed where it is used: per token, per pass."""
    model = setup.model
    contexts = model.embed_text(text, cache=False)
    grids = {m: model.tower(m).grid(grid) for m, grid in setup.grids.items()}
    streams, angles = {}, {}
    for m, x in setup.latents.items():
        tower, count = model.tower(m), len(grids[m])
        levels = torch.full((x.shape[0], count), sigma, device=x.device)
        streams[m] = Stream(tower.embed(x), tower.noise(levels, (count,)), contexts[m].tokens, {})
        angles[m] = model.positions.angles(grids[m], tower.width // tower.heads, "self").to(x.device)
    for layer in model.layers:
        streams = plain_layer(layer, streams, angles)
    return AV.of({m: model.tower(m).head(s.tokens, s.noise, grids[m]) for m, s in streams.items()})


def guided_plainly(setup: Setup, sigma: float) -> AV[Tensor]:
    prompt, negative = (plain_pass(setup, text, sigma) for text in setup.texts)
    return GUIDANCE.combine({PROMPT: prompt, NEGATIVE: negative}, setup.latents, AV(sigma, sigma))


def seconds(functions, device: torch.device, repeat: int) -> list[float]:
    """Shortest time of a call of each, after one to warm up. They take turns, so that whatever else the machine does
    falls on all alike; on a CPU the time is that of the processor, which other programs do not lengthen."""
    times: list[list[float]] = [[] for _ in functions]
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    for i in range(repeat + 1):
        for function, taken in zip(functions, times, strict=True):
            start = clock()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i:
                taken.append(clock() - start)
    return [min(taken) for taken in times]


def peak_memory(function, device: torch.device) -> float:
    """MiB that a call holds at most beyond what was held before it: the allocator's count on CUDA, the profiler's on
    a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = highest = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest / 2**20


def measure(name: str, device: torch.device, dtype: torch.dtype, repeat: int) -> list[str]:
    """One row of the first table."""
    setup = build(SIZES[name], device, dtype)
    network = bound(setup)
    ours = guided(setup, network, 0.5)
    reference = guided_plainly(setup, 0.5)
    difference = max(
        float((mine - theirs).abs().max() / theirs.abs().max())
        for mine, theirs in zip(ours.values(), reference.values(), strict=True)
    )
    with FlopCounterMode(display=False) as counter:
        guided(setup, network, 0.5)
    flops = counter.get_total_flops()
    both = (lambda: guided(setup, network, 0.5), lambda: guided_plainly(setup, 0.5))
    fast, slow = seconds(both, device, repeat)
    memory = peak_memory(lambda: guided(setup, network, 0.5), device)
    tokens = setup.tokens
    return [
        name, f"{tokens['video']} + {tokens['audio']}", f"{flops / 1e9:.1f}", f"{fast * 1e3:.1f}",
        f"{flops / fast / 1e9:.0f}", f"{memory:.0f}", f"{slow * 1e3:.1f}", f"{slow / fast:.2f}", f"{difference:.0e}",
    ]  # fmt: skip


def count_work(name: str, device: torch.device, dtype: torch.dtype, steps: int = 3) -> tuple[list[Counter], AV[int]]:
    """What each step, and then one plain step, sends through the layers that need not see tokens or steps."""
    setup = build(SIZES[name], device, dtype)
    counts = [Counter() for _ in range(steps + 1)]
    now = 0

    def count(label: str):
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            counts[now][label] += output.shape[0] * output.shape[1]

        return hook  # fmt: skip

    for module_name, module in setup.model.named_modules():
        if module_name.endswith("time_projection.1"):
            module.register_forward_hook(count("rows modulated"))
        if module_name.endswith("context_attn.k"):
            module.register_forward_hook(count("text rows to keys"))
    angles = setup.model.positions.angles

    class Counting:
        def angles(self, grid, head_width, use):
            counts[now]["rotations computed"] += 1
            return angles(grid, head_width, use)

    setup.model.positions = Counting()
    network = bound(setup)
    for now in range(steps):  # the hooks read it
        guided(setup, network, 1 - now / steps)
    now = steps
    guided_plainly(setup, 0.5)
    return counts, setup.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="repeatable; default: " + ", ".join(DEFAULT))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), help="default: bfloat16 on CUDA")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    table = Table(title=f"one guided step, 2 passes; torch {torch.__version__}, {device}, {dtype}")
    for column in ("size", "tokens", "GFLOP", "ms", "GFLOP/s", "peak MiB", "plain ms", "plain / ours", "difference"):
        table.add_column(column, justify="right")
    sizes = arguments.size or DEFAULT
    with torch.inference_mode():
        for name in sizes:
            table.add_row(*measure(name, device, dtype, arguments.repeat))
        counts, tokens = count_work(sizes[0], device, torch.float32)
    console = Console(width=140)
    console.print(table)
    work = Table(title=f"work at {sizes[0]}, {tokens['video'] + tokens['audio']} tokens in each of 2 passes")
    for column in ("step", *counts[0]):
        work.add_column(column, justify="right")
    for i, counter in enumerate(counts, 1):
        step = "plain" if i == len(counts) else str(i)
        work.add_row(step, *(str(counter[label]) for label in counts[0]))
    console.print(work)


if __name__ == "__main__":
    main()
