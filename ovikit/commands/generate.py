"""``ovikit generate``: prompts to clips with sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovikit.commands.options import LoraFiles, Overrides, PromptSetFolder, scaled_files, with_set
from ovikit.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ovikit.evaluation.protocols import PromptItem
    from ovikit.generate.run import Generated
    from ovikit.recipe.models import Recipe


PromptFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=".txt (one a line); .csv, .tsv or .jsonl (text_prompt or prompt, image_path, id).",
        show_default=False,
    ),
]
FirstFrame = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="First frame of each --prompt (PNG, JPEG, WebP ...). It decides the clip's shape unless --size does.",
        show_default=False,
    ),
]
ClipSize = Annotated[
    str | None,
    typer.Option(
        metavar="HEIGHTxWIDTH",
        help="Size of the clips, height first, as in 704x1280: brought to the recipe's area, in whole tokens.",
        show_default=False,
    ),
]
PromptSuite = Annotated[
    Path | None, typer.Option(metavar="SUITE", help="Use the prompts of an evaluation suite.", show_default=False)
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE",
        help="Folder with the released weights, or a file of the network's; default: the run's.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A checkpoint of the run in place of its final weights: a name in its folder of checkpoints, or a path.",
        show_default=False,
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the clips; default: prompted (of a suite: clips) in the run's, -NAME for a checkpoint.",
    ),
]
NoiseSeed = Annotated[
    int | None,
    typer.Option(min=0, max=2**62 - 1, show_default=False, help="Seed of the noise; clip i has seed + i."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Clips made at the same time; default: up to 8 small ones, 1 large one."),
]


def app_command(cli: typer.Typer) -> None:
    """Adds ``generate``."""
    cli.command("generate")(generate)


def generate(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|RECIPE", help="Folder of a training run, or a recipe.", show_default=False)
    ],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    prompts: PromptFile = None,
    image: FirstFrame = None,
    size: ClipSize = None,
    suite: PromptSuite = None,
    prompt_set: PromptSetFolder = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave out the prompts' first frames.")] = False,
    weights: Weights = None,
    lora: LoraFiles = None,
    checkpoint: Checkpoint = None,
    out: OutFolder = None,
    seed: NoiseSeed = None,
    count: Annotated[int, typer.Option(min=1, help="Clips for each prompt.")] = 1,
    first: Annotated[int | None, typer.Option(min=1, help="Only the first N prompts.")] = None,
    batch_size: BatchSize = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace clips that were made otherwise.")] = False,
    override: Overrides = None,
) -> None:
    """Make clips from prompts. Clips that are there already are kept, so a killed run goes on where it was.

    Example: ovikit generate runs/demo --prompt "A red ball flashes twice on the left. Audio: two low tones" --seed 7

    Example: ovikit generate runs/demo --checkpoint step-000400 --prompts prompts.csv

    Example: ovikit generate recipes/reference/ovi-960x960-10s.yaml --weights DIR --prompt "..." --image first.png
    """
    changes = [*(override or ()), *([] if seed is None else [f"sampling.seed={seed}"])]
    _refuse_unless_one(prompt, prompts, suite)
    if image is not None and not prompt:
        raise UserError("--image goes with --prompt", hint="in a file of prompts, each row names its own: image_path")
    if prompt_set is not None and suite is None:
        raise UserError("--set goes with --suite", hint="it says where a suite's prompts are")
    from rich.console import Console

    from ovikit.commands.device import pick_device
    from ovikit.commands.progress import generation_progress
    from ovikit.generate.run import find_source
    from ovikit.generate.run import generate as run_generation
    from ovikit.generate.size import parse_size
    from ovikit.runtime.processes import is_main

    console = Console(soft_wrap=True, quiet=not is_main())
    wanted = None if size is None else parse_size(size)
    trained = None if checkpoint is None else _weights_at(source, checkpoint, weights)
    found = find_source(source, changes, weights, trained, scaled_files(lora or ()))
    items = _items(found.recipe, prompt, prompts, suite, image, with_set(None, prompt_set))[:first]
    if text_only:
        items = [replace(item, image=None) for item in items]
    with generation_progress(console, lines=True) as shown:
        done = run_generation(
            found,
            items,
            out or found.folder / _folder_name(bool(suite), trained),
            count=count,
            batch_size=batch_size,
            overwrite=overwrite,
            size=wanted,
            device=pick_device(device),
            watcher=shown,
        )
    for line in closing_lines(done):
        console.print(line, highlight=False, markup=False)


def _weights_at(run: Path, checkpoint: str, weights: Path | None) -> Path:
    """The file with the weights that a checkpoint of a run holds."""
    if not run.is_dir():
        raise UserError("--checkpoint goes with the folder of a training run, which this is not", str(run))
    if weights is not None and not weights.is_dir():
        raise UserError("--checkpoint and a file of weights were both given", hint="either names the network's weights")
    from ovikit.training.checkpoints import weights_of_checkpoint

    return weights_of_checkpoint(run, checkpoint)


def _folder_name(suite: bool, trained: Path | None) -> str:
    """What the folder of the clips is called by default: those of a checkpoint do not mix with the others."""
    name = "clips" if suite else "prompted"
    return name if trained is None else f"{name}-{trained.stem}"


def closing_lines(done: Generated) -> list[str]:
    """What a run made, how long each phase took, and the most memory that it took."""
    clips = "1 clip" if len(done.made) == 1 else f"{len(done.made)} clips"
    lines = [f"{clips} in {done.seconds:.1f} s: {done.folder}"]
    if done.made:
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in done.phases.items())
        whose = "resident memory" if done.device == "cpu" else f"memory of {done.device}"
        lines.append(f"{phases}; peak {whose} {done.peak_bytes / 1e9:.1f} GB")
    return lines


def _refuse_unless_one(prompt: Sequence[str] | None, prompts: Path | None, suite: Path | None) -> None:
    """UserError where the prompts come from nowhere, or from two places."""
    given = [name for name, value in (("--prompt", prompt), ("--prompts", prompts), ("--suite", suite)) if value]
    if len(given) != 1:
        told = f"{' and '.join(given)} were given" if given else "there are no prompts"
        raise UserError(told, hint="give one of --prompt TEXT, --prompts FILE and --suite SUITE")


def _items(
    recipe: Recipe,
    prompt: Sequence[str] | None,
    prompts: Path | None,
    suite: Path | None,
    image: Path | None,
    overrides: Sequence[str],
) -> Sequence[PromptItem]:
    from ovikit.generate.prompts import given_prompts, read_prompts

    if prompts is not None:
        return read_prompts(prompts)
    if suite is None:
        return given_prompts(prompt or (), recipe.sampling.seed, image)
    from ovikit.recipe.build import build_prompts, clip_spec
    from ovikit.recipe.load import load_suite

    found = build_prompts(load_suite(suite, overrides), clip_spec(recipe))
    return [found[i] for i in range(len(found))]
