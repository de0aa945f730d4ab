"""What is computed on several processes and compared with one: forwards of a tiny Ovi, and whole denoising loops."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ovikit.kernel.manager import installed_catalog
from ovikit.networks.attention import sdpa
from ovikit.networks.init import initialise
from ovikit.networks.joint import JointModel
from ovikit.networks.precision import FLOAT32
from ovikit.numerics.guidance import NEGATIVE, PROMPT, ClassifierFree
from ovikit.numerics.protocols import Guidance, Pass
from ovikit.numerics.sample import sample
from ovikit.numerics.schedule import ShiftedSchedule
from ovikit.numerics.solver.unipc import UniPC
from ovikit.recipe.build import ONE_PROCESS, Spread
from ovikit.recipe.models import Parallel
from ovikit.runtime import parallel
from ovikit.runtime.passes import BoundNetwork
from ovikit.runtime.processes import Processes
from ovikit.runtime.recompute import checkpoint_layers
from ovikit.types import AV, Modality, Perturbation, Text, TokenGrid
from ovikit_guidances.compose import compose
from ovikit_guidances.options import Cfg, ModalityIsolating, Rescale, SyncCfg
from ovikit_ovi.positions import IndexPositions
from ovikit_ovi.tower import OviTower

DEPTH, HEAD_WIDTH, BATCH = 3, 12, 2
BOTH: tuple[Modality, ...] = ("video", "audio")


@dataclass(frozen=True)
class Case:
    """A forward. video: latent steps, rows, columns, of which 1 x 2 x 2 make a token; audio: tokens."""

    video: tuple[int, int, int] = (4, 4, 4)
    audio: int = 9
    heads: int = 4
    modalities: tuple[Modality, ...] = BOTH
    fused: bool = True
    fusion: str = "ovi"
    audio_depth: int = DEPTH
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> AV[int]:
        t, y, x = self.video
        return AV.of({m: n for m, n in (("video", t * y * x // 4), ("audio", self.audio)) if m in self.modalities})


def lengths(**given: list[int]) -> AV[Tensor]:
    return AV(**{modality: torch.tensor(value) for modality, value in given.items()})  # type: ignore[arg-type]


SKIP, ALONE, VALUES = Perturbation(skip_layers=(1,)), Perturbation(cut_fusion=True), Perturbation(skip_self=(0, 2))
CASES: dict[str, Case] = {
    "lengths that divide": Case(audio=8),
    "lengths that do not divide": Case((3, 2, 10), 9),
    "fewer tokens than processes": Case((3, 2, 2), 1),
    "shares that would be of one size": Case((2, 4, 4), 7),
    "as many tokens in both": Case((2, 4, 4), 8),
    "a long and a short stream": Case((8, 8, 8), 5),
    "a clean first frame": Case((3, 4, 6), 9, options={"clean_steps": AV(video=1)}),
    "clean steps beyond a share": Case((3, 4, 6), 9, options={"clean_steps": AV(video=2, audio=5)}),
    "a layer skipped": Case(options={"perturbation": SKIP}),
    "fusion cut": Case(options={"perturbation": ALONE}),
    "self-attention skipped": Case(options={"perturbation": VALUES}),
    "passes as one batch": Case((3, 2, 10), 9, options={"perturbation": (Perturbation(), SKIP)}),
    "items of unequal length": Case((3, 4, 6), 9, options={"lengths": lengths(video=[11, 18], audio=[9, 4])}),
    "short keys of unequal length": Case((8, 8, 8), 5, options={"lengths": lengths(audio=[5, 3])}),
    "no fusion": Case((3, 2, 10), 9, fused=False),
    "video only": Case((3, 2, 10), modalities=("video",), fused=False),
    "audio only": Case(audio=11, modalities=("audio",), fused=False),
    "heads that do not divide": Case((3, 2, 10), 9, heads=5),
    "fewer heads than processes": Case((3, 2, 10), 9, heads=1),
    "a shallower audio tower": Case(audio_depth=DEPTH - 1),
    "gated by the other's noise": Case((3, 4, 6), 9, fusion="gated-residual"),
    "gated by noise beyond a share": Case(
        (3, 4, 6), 9, fusion="gated-residual", options={"clean_steps": AV(video=2, audio=5)}
    ),
    "a bridge": Case((3, 2, 10), 9, fusion="bridge", options={"lengths": lengths(video=[11, 15], audio=[9, 4])}),
}

CHECKPOINTED = ("lengths that do not divide", "a clean first frame", "short keys of unequal length")
ALSO_IN_FLOAT32 = ("lengths that do not divide", "a clean first frame", "heads that do not divide")
DTYPES = (torch.float64, torch.float32)

COUNTED = Case((8, 8, 8), 5, heads=5)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(case: Case, spread: Spread = ONE_PROCESS, dtype: torch.dtype = torch.float64) -> JointModel:
    """A tiny model with every weight random: also those that training starts at zero."""
    width, attend = case.heads * HEAD_WIDTH, spread.attend(sdpa)
    options = {"width": width, "feed_forward_width": 24, "heads": case.heads, "text_length": 6, "frequency_width": 16}
    depths = {"video": (3, DEPTH), "audio": (5, case.audio_depth)}
    towers = AV.of({m: OviTower(m, depths[m][0], 10, depth=depths[m][1], **options) for m in case.modalities})
    pair = AV(width, width), AV(case.heads, case.heads)
    component = installed_catalog().find("fusion", case.fusion if case.fused else "none").component
    fusion = component.build(
        component.config(), depth=DEPTH, width=pair[0], heads=pair[1], attend=attend, precision=FLOAT32
    )
    model = JointModel(towers, fusion, IndexPositions(0.4), attend, spread.partition)
    generator = torch.Generator().manual_seed(0)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.to(dtype).eval()


def grids(case: Case) -> AV[TokenGrid]:
    pair = AV(
        TokenGrid.uniform("video", case.video, 0.25),
        TokenGrid.uniform("audio", (case.audio, 1, 1), 0.1),
    )
    return AV.of({m: pair[m] for m in case.modalities})


def latents(case: Case, batch: int, dtype: torch.dtype) -> AV[Tensor]:
    pair = AV(drawn(batch, 3, *case.video, seed=1), drawn(batch, 5, case.audio, seed=2))
    return AV.of({m: pair[m].to(dtype) for m in case.modalities})


def text(case: Case, batch: int, dtype: torch.dtype, seed: int = 3) -> AV[Text]:
    one = Text(drawn(batch, 4, 10, seed=seed).to(dtype), torch.full((batch,), 4))
    return AV.of(dict.fromkeys(case.modalities, one))


def velocity(model: JointModel, case: Case, dtype: torch.dtype = torch.float64) -> AV[Tensor]:
    """Of a batch whose items have unequal noise levels."""
    context = model.embed_text(text(case, BATCH, dtype), cache=True)
    levels = AV.of(dict.fromkeys(case.modalities, torch.linspace(0.2, 0.9, BATCH, dtype=dtype)))
    return model(latents(case, BATCH, dtype), levels, context, grids(case), **case.options)


def difference(found: AV[Tensor], expected: AV[Tensor]) -> float:
    """The largest, relative to the largest value."""
    pairs = found.zip(expected, lambda a, b: ((a - b).abs().max() / b.abs().max()).item())
    return max(pairs.values())


@dataclass(frozen=True)
class Apart:
    """A guidance of three passes: the third hears nothing of the other modality."""

    evaluations: int = 3

    def passes(self, sigma: AV[float]) -> tuple[Pass, ...]:
        return Pass(PROMPT, PROMPT), Pass(NEGATIVE, NEGATIVE, SKIP), Pass("apart", PROMPT, ALONE)

    def combine(self, velocities: Mapping[str, AV[Tensor]], x: AV[Tensor], sigma: AV[float]) -> AV[Tensor]:
        whole = velocities[PROMPT].zip(velocities[NEGATIVE], lambda a, b: 2.5 * a - b)
        return whole.zip(velocities["apart"], lambda a, b: a - 0.5 * b)


GUIDANCES: dict[str, Guidance] = {
    "one pass": ClassifierFree(AV(1.0, 1.0)),
    "two passes": ClassifierFree(AV(4.0, 3.0), skip_layers=(1,)),
    "three passes": Apart(),
    "five passes, two of them anchored": compose([Cfg(), ModalityIsolating(), SyncCfg(), Rescale()]),
}
LAYOUTS = {2: (Parallel(guidance=2), Parallel(sequence=2)), 4: (Parallel(sequence=2, guidance=2),)}


def denoised(guidance: Guidance, processes: Processes | None, dtype: torch.dtype, batched: bool) -> AV[Tensor]:
    """The latents of a whole loop with a clean first frame, in a clip whose tokens do not divide."""
    case = Case((3, 2, 10), 9)
    model = build(case, ONE_PROCESS if processes is None else processes.spread, dtype)
    contexts = {
        name: model.embed_text(text(case, 1, dtype, seed), cache=True) for seed, name in enumerate((PROMPT, NEGATIVE))
    }
    noise = latents(case, 1, dtype)
    anchors = noise.map(lambda value: 0.1 * value.flip(-1))
    bound = BoundNetwork(model, contexts, grids(case), dtype, AV(video=1), batched, anchors)
    network = bound if processes is None else processes.network(bound)
    clean = AV(video=noise["video"][:, :, :1])
    return sample(network, noise, ShiftedSchedule(), UniPC(), guidance, 3, clean=clean)


def compared(processes: Processes, together: AV[Tensor], alone: Callable[[], AV[Tensor]]) -> float:
    """How far this lies from what one process makes, which the first one does; infinite where processes disagree."""
    mine = [x.sum().item() for x in together.values()]
    agreed = all(other == mine for other in processes.collect(mine))
    return math.inf if not agreed else difference(together, alone()) if processes.main else 0.0


@torch.no_grad()
def run_forwards(processes: Processes, found: dict[str, float]) -> None:
    for (name, case), dtype in product(CASES.items(), DTYPES):
        if dtype == torch.float64 or name in ALSO_IN_FLOAT32:
            together = velocity(build(case, processes.spread, dtype), case, dtype)

            def alone(case: Case = case, dtype: torch.dtype = dtype) -> AV[Tensor]:
                return velocity(build(case, ONE_PROCESS, dtype), case, dtype)

            found[f"{name} {dtype}"] = compared(processes, together, alone)
    # One model that sees clips of many sizes, in turn and again.
    spread, whole = build(Case(), processes.spread), build(Case())
    sizes = [Case(video, audio) for video, audio in (((4, 4, 4), 9), ((2, 4, 4), 7), ((3, 2, 10), 1), ((4, 4, 4), 9))]
    found["clips of many sizes"] = max(
        compared(processes, velocity(spread, case), lambda case=case: velocity(whole, case)) for case in sizes
    )


def gradient(model: JointModel, case: Case) -> Tensor:
    """Of all parameters, in one row, of a loss of the whole velocity."""
    model.zero_grad()
    torch.stack([x.square().mean() for x in velocity(model, case).values()]).sum().backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def run_gradients(processes: Processes, found: dict[str, float]) -> None:
    """The mean over the processes, as DDP makes it, against the gradient of one process; checkpointed as well."""
    partition = processes.spread.partition
    assert isinstance(partition, parallel.TokenPartition)
    for name, checkpointed in [*((name, False) for name in CASES), *((name, True) for name in CHECKPOINTED)]:
        case = CASES[name]
        model = build(case, processes.spread)
        if checkpointed:
            checkpoint_layers(model)
        together = partition.peers.gather(gradient(model, case)[None]).mean(dim=0)
        found[f"gradient, {name}{', checkpointed' if checkpointed else ''}"] = compared(
            processes, AV(together), lambda case=case: AV(gradient(build(case), case)[None])
        )


@torch.no_grad()
def run_loops(processes: Processes, found: dict[str, float], name: str) -> None:
    for (label, guidance), dtype in product(GUIDANCES.items(), DTYPES):

        @cache
        def alone(guidance: Guidance = guidance, dtype: torch.dtype = dtype) -> AV[Tensor]:
            return denoised(guidance, None, dtype, batched=False)

        for batched in (False, True):
            together = denoised(guidance, processes, dtype, batched)
            found[f"{label}, {name}{', batched' if batched else ''} {dtype}"] = compared(processes, together, alone)


@torch.no_grad()
def count_sent(processes: Processes) -> dict[str, int]:
    """Bytes that this process hands over for the others in the layers and at the end, counted where they go out."""
    sent = {"layers": 0, "end": 0}
    exchange, gather = parallel.Peers.exchange, parallel.Peers.gather

    def counted_exchange(self: parallel.Peers, x: Tensor, rows: list[int], received: list[int]) -> Tensor:
        sent["layers"] += x[0].numel() * (sum(rows) - rows[self.rank]) * x.element_size()
        return exchange(self, x, rows, received)

    def counted_gather(self: parallel.Peers, x: Tensor) -> Tensor:
        sent["end" if x.ndim == 3 else "layers"] += x.numel() * (self.size - 1) * x.element_size()
        return gather(self, x)

    model = build(COUNTED, processes.spread)
    parallel.Peers.exchange, parallel.Peers.gather = counted_exchange, counted_gather  # type: ignore[method-assign]
    try:
        velocity(model, COUNTED)
    finally:
        parallel.Peers.exchange, parallel.Peers.gather = exchange, gather  # type: ignore[method-assign]
    return sent


def promised(processes: int) -> dict[str, int]:
    """The same as ``layer_bytes`` and ``gather_bytes`` have it."""
    heads, options = COUNTED.heads, {"processes": processes, "item_bytes": 8}
    layer = parallel.layer_bytes(COUNTED.tokens, heads=heads, head_width=HEAD_WIDTH, **options)
    end = parallel.gather_bytes(COUNTED.tokens, width=heads * HEAD_WIDTH, **options)
    return {"layers": sum(layer.values()) * DEPTH * BATCH, "end": end * BATCH}


def run_all() -> dict[str, Any]:
    """What this process found: the differences between one process and several, by case, and the bytes it sent."""
    found: dict[str, float] = {}
    with Processes.start(Parallel(sequence=int(os.environ["WORLD_SIZE"]))) as processes:
        run_forwards(processes, found)
        run_gradients(processes, found)
        sent = count_sent(processes)
        told = processes.collect({"rank": processes.layout.rank})
    for layout in LAYOUTS[processes.layout.world]:
        with Processes.start(layout) as processes:
            run_loops(processes, found, f"sequence {layout.sequence} guidance {layout.guidance}")
    return {"rank": processes.layout.rank, "differences": found, "sent": sent, "told": told}
