"""What adapters have learned of a new style: balls that bounce, for a model of the toy world's balls that flash.

    ovikit train recipes/ablations/base.yaml --run runs/flash
    ovikit train recipes/tiny/lora.yaml --run runs/bounce
    python benchmarks/lora_style.py runs/flash runs/bounce

Two measures, for the base and for the base with adapters. *Loss*: flow-matching loss of each modality over 256 clips
that neither has seen, with the same noise and noise levels for both, on either style. *Travel*: how far the ball moves
up and down in 32 clips made from prompts of the new style, as a share of the picture's height, beside that of the
ground truth: a ball that flashes stays where it is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ovikit.checkpoints.load import on_host
from ovikit.data.latents import prepare_latents
from ovikit.data.sampler import EpochSampler
from ovikit.evaluation.runner import build_bench
from ovikit.generate.media import read_clip
from ovikit.generate.run import generate
from ovikit.generate.source import Source, build_parts, find_source
from ovikit.networks.joint import JointModel
from ovikit.recipe import build
from ovikit.recipe.load import load_recipe, load_suite
from ovikit.training.batches import BatchStream
from ovikit.training.draws import Choices
from ovikit.training.module import JointTraining
from ovikit.training.optimizer import AdamWCosine
from ovikit.training.watch import LossWatch
from ovikit.types import AV

ROOT = Path(__file__).parents[1]
CLIPS, BATCH = 256, 32


def model_of(source: Source) -> JointModel:
    parts = build_parts(source)
    model = build.build_model(source.recipe, parts.codecs, parts.conditioner, "meta")
    place = source.placing(model, on_host)
    build.fill_model(model, source.recipe, weights=source.weights, assets=source.assets, place=place)
    return model.requires_grad_(True)


@torch.no_grad()
def losses(source: Source, style: str) -> AV[float]:
    """The mean loss of each modality over clips of a style."""
    own = ("training.data.seed=77", f"training.data.clips={CLIPS}", f"training.data.kinds=[{style}]")
    recipe, parts = load_recipe(source.folder / "recipe.lock.yaml", own), build_parts(source)
    training = build.training_of(recipe)
    clips = prepare_latents(build.build_dataset(recipe), parts.codecs, parts.conditioner, build.clip_spec(recipe))
    module = JointTraining(
        model_of(source), build.build_objective(recipe), [parts.codecs.map(lambda codec: codec.grid())],
        AdamWCosine(steps=1, **training.optimizer.to_dict()), LossWatch(clips.names),
        seed=5, choices=Choices(), gradient_clip=None,
    )  # fmt: skip
    stream = BatchStream(clips, EpochSampler((CLIPS,), BATCH, 3))
    found = [module.losses(stream[turn]) for turn in range(4 * CLIPS // BATCH)]
    return AV.of({m: float(torch.stack([one[m] for one in found]).mean()) for m in found[0].modalities})


def travel(video: np.ndarray) -> float:
    """How far the most colourful spot of a clip moves up and down, as a share of the height."""
    chroma = video.max(-1).astype(np.float64) - video.min(-1)
    weight = np.maximum(chroma - 0.5 * chroma.max(), 0).sum(2) + 1e-9
    rows = (weight * np.arange(video.shape[1])).sum(1) / weight.sum(1)
    return float((np.quantile(rows, 0.95) - np.quantile(rows, 0.05)) / video.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder of the base's run")
    parser.add_argument("adapted", type=Path, help="folder of the adapters' run")
    options = parser.parse_args()
    suite = load_suite(ROOT / "evals/suites/toyworld-bounce.yaml")
    table = Table("model", "video, bounce", "audio, bounce", "video, flash", "audio, flash", "travel")
    for name, folder in (("base", options.base), ("base and adapters", options.adapted)):
        source = find_source(folder)
        found = [losses(source, style) for style in ("bounce", "flash")]
        with tempfile.TemporaryDirectory() as made:
            bench = build_bench(suite, source.recipe)
            generate(source, bench.items, Path(made), batch_size=8)
            moved = [travel(read_clip(Path(made) / f"{item.id}.mp4").video.numpy()) for item in bench.items]
            truth = [travel(bench.prompts.reference(i).video.numpy()) for i in range(len(bench.items))]
        cells = [f"{value:.4f}" for one in found for value in one.values()]
        table.add_row(name, *cells, f"{np.mean(moved):.3f}")
    table.add_row("ground truth", "", "", "", "", f"{np.mean(truth):.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
