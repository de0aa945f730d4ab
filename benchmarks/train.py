"""What a training step costs: time, tokens and FLOP per second, and peak memory, for the same step done in four ways.

Each way runs in a process of its own, so that its memory is its own; the ratio is to the plain step of the same call.

    python benchmarks/train.py
    python benchmarks/train.py --recipe recipes/reference/lora.yaml --device cuda --way plain --way lora
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ovikit.commands.tables import print_table
from ovikit.data.encoded import Encoded
from ovikit.networks.joint import JointModel
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe
from ovikit.recipe.lora import Lora
from ovikit.recipe.models import Recipe
from ovikit.runtime.compile import compile_layers
from ovikit.runtime.recompute import checkpoint_layers
from ovikit.runtime.training_estimate import CountedAttend, estimate_training
from ovikit.training.batches import Batch
from ovikit.training.draws import Choices
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.parameters import adapt, select_trained
from ovikit.training.watch import LossWatch
from ovikit.types import Text

ROOT = Path(__file__).parents[1]
WAYS = ("plain", "checkpointed", "compiled", "lora")
RANK = 8


@dataclass(frozen=True)
class Step:
    """A model of a recipe, and the numbers of one micro-batch."""

    recipe: Recipe
    way: str

    def model(self, device: torch.device | str, spread: build.Spread = build.ONE_PROCESS) -> JointModel:
        codecs, conditioner = build.build_codecs(self.recipe), build.build_conditioner(self.recipe)
        model = build.build_model(self.recipe, codecs, conditioner, device, spread)
        training = build.training_of(self.recipe)
        if self.way == "lora":
            adapt(
                model, Lora.model_validate({"rank": dict.fromkeys(("video", "audio", "fusion"), RANK)}), training.seed
            )
        select_trained(model, training.stage, training.freeze)
        return model

    def flops(self) -> int:
        """Of forward and backward, counted on PyTorch's meta device."""
        attend = CountedAttend()
        model = self.model("meta", build.Spread(build.ONE_PROCESS.partition, lambda _: attend))
        codecs, conditioner = build.build_codecs(self.recipe), build.build_conditioner(self.recipe)
        shapes, grids = codecs.map(lambda codec: codec.shape()), codecs.map(lambda codec: codec.grid())
        clips = build.training_of(self.recipe).batch_size
        return estimate_training(model, attend, shapes, grids, conditioner.width, clips).flops[
            self.way == "checkpointed"
        ]

    def batch(self, device: torch.device) -> Batch:
        generator, size = torch.Generator().manual_seed(1), build.training_of(self.recipe).batch_size
        codecs, conditioner = build.build_codecs(self.recipe), build.build_conditioner(self.recipe)
        latents = codecs.map(lambda codec: torch.randn((size, *codec.shape()), generator=generator))
        text = Text(torch.randn(size, 64, conditioner.width, generator=generator), torch.full((size,), 64))
        empty = Text(torch.zeros(1, 64, conditioner.width), torch.zeros(1, dtype=torch.int64))
        return Batch(list(range(size)), Encoded(latents, latents.map(lambda _: text)), empty).to(device)


def measure(step: Step, device: torch.device, repeat: int) -> dict[str, Any]:
    """Seconds of a step (the median), its tokens and FLOPs, and the memory at its peak beyond what lay there before."""
    model = step.model(device)
    if step.way == "checkpointed":
        checkpoint_layers(model)
    if step.way == "compiled":
        compile_layers(model)
    training = build.training_of(step.recipe)
    codecs = build.build_codecs(step.recipe)
    grids = codecs.map(lambda codec: codec.grid())
    module = JointTraining(
        model, build.build_objective(step.recipe), [grids],
        AdamWCosine(steps=100, **training.optimizer.to_dict()), LossWatch([str(k) for k in range(training.batch_size)]),
        seed=1, choices=Choices(), gradient_clip=None,
    )  # fmt: skip
    optimizer, _ = module.make_optimizer(model, fused=True)
    batch = step.batch(device)

    def run() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.trainer.precision == "bf16-mixed"):
            total = torch.stack(list(module.losses(batch).values())).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return total.detach()

    before = _memory(device)
    losses, seconds = [run() for _ in range(2)], []
    for _ in range(repeat):
        _wait(device)
        began = time.perf_counter()
        losses.append(run())
        _wait(device)
        seconds.append(time.perf_counter() - began)
    if not torch.stack(losses).isfinite().all():
        raise SystemExit(f"{step.way}: a loss is not a number")
    tokens = sum(len(model.tower(m).grid(grid)) for m, grid in grids.items()) * training.batch_size
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "way": step.way, "seconds": statistics.median(seconds), "tokens": tokens, "flops": step.flops(),
        "peak_bytes": _memory(device) - before, "trained": trained,
    }  # fmt: skip


def _memory(device: torch.device) -> int:
    """Bytes at the peak so far: of the device, or of this process where that is the processor."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes/tiny/ovi.yaml"))
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--override", "-o", action="append", default=[])
    parser.add_argument("--json", action="store_true", help="one way, in this process, as JSON")
    chosen = parser.parse_args()
    ways = chosen.way or list(WAYS)
    if chosen.json:
        step = Step(load_recipe(chosen.recipe, chosen.override), ways[0])
        print(json.dumps(measure(step, torch.device(chosen.device), chosen.repeat)))  # noqa: T201
        return
    rows = [_in_a_process(way) for way in ways]
    base = next((row["seconds"] for row in rows if row["way"] == "plain"), None)
    header = ("way", "trained", "s/step", "of plain", "tokens/s", "GFLOP/s", "peak GB")
    table = [
        (
            row["way"], f"{row['trained']:,}", f"{row['seconds']:.3f}", f"{row['seconds'] / base:.2f}" if base else "-",
            f"{row['tokens'] / row['seconds']:,.0f}", f"{row['flops'] / row['seconds'] / 1e9:,.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    print_table(Console(), header, table)


def _without_ways(words: list[str]) -> list[str]:
    return [word for k, word in enumerate(words) if word != "--way" and (k == 0 or words[k - 1] != "--way")]


def _in_a_process(way: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *_without_ways(sys.argv), "--json", "--way", way],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{way}: the step failed")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
