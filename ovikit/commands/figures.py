"""``ovikit figures``: pictures of what a model does: how alike its positions are, and where its sound looks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovikit.commands.options import Overrides, RecipeFile
from ovikit.errors import UserError
from ovikit.extras import require

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ovikit.figures.attention import Attention
    from ovikit.types import TokenGrid

    Choose = Callable[[TokenGrid], list[int]]
    from ovikit.figures.affinity import Affinity


Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The network's weights, or a training's checkpoint: a path, or a name in the run; default: the run's.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE", help="Folder with the released weights, or a file of the network's.", show_default=False
    ),
]
Times = Annotated[
    str | None,
    typer.Option(metavar="S,S", help="Audio tokens by time, in seconds, as in 0.5,1.2.", show_default=False),
]
Tokens = Annotated[
    str | None, typer.Option(metavar="N,N", help="Audio tokens by number, from 0 on.", show_default=False)
]
Step = Annotated[int | None, typer.Option(metavar="K", help="Denoising step, from 1 on; default: the middle one.")]
Layers = Annotated[
    str | None,
    typer.Option(metavar="N,N-N", help="Layers to average over, as in 0,8-11; default: all that read the picture."),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**62 - 1, show_default=False, help="Seed of the noise.")]
OutFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the figures; default: attention in the run's, -NAME for a checkpoint."),
]

_TRAINING = ".ckpt"


def app_command(cli: typer.Typer) -> None:
    """Adds ``figures rope-affinity`` and ``figures attention``."""
    group = typer.Typer(
        help="Draw what a model does. Example: ovikit figures rope-affinity recipes/tiny/ovi.yaml",
        no_args_is_help=True,
    )
    group.command("rope-affinity")(rope_affinity)
    group.command("attention")(attention)
    cli.add_typer(group, name="figures")


def rope_affinity(
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture, a PNG; default: rope-affinity-NAME.png.")
    ] = None,
    before: Annotated[
        str, typer.Option(metavar="NAME", help="The positional scheme to compare the recipe's own with.")
    ] = "native",
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write both maps: .safetensors or .csv.", show_default=False),
    ] = None,
    override: Overrides = None,
) -> None:
    """Draw how alike the positions of audio tokens and video steps are, before and after. Needs no weights.

    Bright is alike: the mean, over the channel pairs that turn with time, of the cosine of the angle between them.
    Where a scheme aligns the two, the bright ridge lies on the line of equal seconds.

    Example: ovikit figures rope-affinity recipes/reference/ovi-720x720-5s.yaml --out figure-2.png
    """
    from ovikit.figures.affinity import rope_affinity as make
    from ovikit.figures.affinity_picture import draw_affinity, refuse_other_data, write_affinity
    from ovikit.recipe.load import load_recipe

    if data is not None:
        refuse_other_data(data)
    found = make(load_recipe(recipe, override or ()), before)
    path = out or Path(f"rope-affinity-{found.recipe}.png")
    _refuse_unless_png(path)
    draw_affinity(found, path)
    if data is not None:
        write_affinity(found, data)
    for line in affinity_lines(found):
        typer.echo(line)
    typer.echo(" and ".join(str(one) for one in (path, data) if one is not None))


def affinity_lines(found: Affinity) -> list[str]:
    """How far each scheme's ridge lies from equal seconds, and how far it would at least."""
    from ovikit.figures.affinity import least_distance_s

    steps = ", ".join(f"{grid.shape[0]} {modality}" for modality, grid in found.grids.items())
    lines = [
        f"{place} ({one.title}): the ridge lies {one.distance_s:.4f} s from equal seconds on average"
        for place, one in found.maps.items()
    ]
    return [*lines, f"the video step nearest in time lies {least_distance_s(found.grids):.4f} s away ({steps} steps)"]


def _refuse_unless_png(path: Path) -> None:
    if path.suffix != ".png":
        raise UserError(f"'{path.name}' does not end in .png", "--out")


def attention(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|RECIPE", help="Folder of a training run, or a recipe.", show_default=False)
    ],
    prompt: Annotated[str, typer.Option(help="The prompt of the clip.", show_default=False)],
    checkpoint: Checkpoint = None,
    weights: Weights = None,
    at: Times = None,
    tokens: Tokens = None,
    step: Step = None,
    layers: Layers = None,
    seed: Seed = None,
    out: OutFolder = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    override: Overrides = None,
) -> None:
    """Make one clip, and show where its sound looks: what audio tokens attend to in the picture.

    Writes a picture of the chosen tokens (default: four, evenly spread), and the clip as an MP4 in which each frame
    glows where the sound of that moment looks.

    Example: ovikit figures attention runs/demo --prompt "A red ball flashes twice on the left" --at 0.5,1.2
    """
    chosen, wanted = _choice(at, tokens), None if layers is None else parse_numbers(layers, "--layers")
    from rich.console import Console

    from ovikit.commands.device import pick_device
    from ovikit.commands.progress import generation_progress
    from ovikit.figures.attention import find_weighted, record_attention
    from ovikit.figures.attention_film import write_film
    from ovikit.figures.attention_picture import draw_attention
    from ovikit.generate.prompts import given_prompts

    require("matplotlib", extra="report")  # better told before the clip is made
    changes = [*(override or ()), *([] if seed is None else [f"sampling.seed={seed}"])]
    trained = None if checkpoint is None else _weights_at(source, checkpoint)
    found = find_weighted(source, changes, weights, trained)
    item = given_prompts([prompt], found.recipe.sampling.seed)[0]
    console = Console(soft_wrap=True)
    with generation_progress(console) as shown:
        made, rows = record_attention(
            found, item, choose=chosen, step=step, layers=wanted, device=pick_device(device), watcher=shown
        )
        folder = out or found.folder / _folder_name(checkpoint, trained)
        picture, film = folder / f"{item.id}.png", folder / f"{item.id}.mp4"
        shown.phase("drawing", 0, "")
        draw_attention(made, rows, picture)
        write_film(made, film)
    for line in attention_lines(made, rows):
        console.print(line, highlight=False, markup=False)
    console.print(f"{picture} and {film}", highlight=False, markup=False)


def _weights_at(source: Path, checkpoint: str) -> Path:
    """The file of weights that is meant: itself, or that of a training's checkpoint, which is written where it is not.

    A name belongs to the run that is drawn; beside a recipe, a checkpoint to the run in whose folder it lies.
    """
    path = Path(checkpoint)
    if path.suffix != _TRAINING and (path.is_file() or not source.is_dir()):
        return path
    from ovikit.training.checkpoints import weights_of_checkpoint

    return weights_of_checkpoint(source if source.is_dir() else path.resolve().parent.parent, checkpoint)


def _folder_name(checkpoint: str | None, trained: Path | None) -> str:
    """What the folder is called by default: the figures of a training's checkpoint do not mix with the others."""
    return "attention" if trained is None or trained == Path(checkpoint or "") else f"attention-{trained.stem}"


def _choice(at: str | None, tokens: str | None) -> Choose:
    """How the audio tokens are chosen, once it is known where they lie. UserError for what cannot be read."""
    if at is not None and tokens is not None:
        raise UserError("--at and --tokens were given", hint="give one of them")
    if at is not None:
        times = _parse_times(at)
        from ovikit.figures.attention import tokens_at

        return lambda grid: tokens_at(grid, times)
    numbers = None if tokens is None else parse_numbers(tokens, "--tokens")
    from ovikit.figures.attention import numbered_tokens, spread_tokens

    return spread_tokens if numbers is None else lambda grid: numbered_tokens(grid, numbers)


def _parse_times(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError as error:
        raise UserError(f"'{text}' is no list of seconds", "--at", "write it as in --at 0.5,1.2") from error


def parse_numbers(text: str, where: str) -> list[int]:
    """The numbers of ``1,4-6``, each once. UserError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)
        if ends is None:
            raise UserError(f"'{text}' is no list of whole numbers", where, f"write it as in {where} 0,8-11")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if last < first:
            raise UserError(f"'{part.strip()}' runs backwards", where, f"write it as {last}-{first}")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def attention_lines(made: Attention, tokens: Sequence[int]) -> list[str]:
    """Of each token, the time that it attends to most."""
    shares = made.over_frames()[list(tokens)].sum(dim=(2, 3))
    sound, picture = made.grids["audio"], made.grids["video"]
    lines: list[str] = []
    for token, share in zip(tokens, shares, strict=True):
        step = int(share.argmax())
        start, end = picture.edges_s[step]
        lines.append(
            f"token {token}, at {sum(sound.edges_s[token]) / 2:.2f} s: most at {(start + end) / 2:.2f} s, "
            f"{100 * float(share[step]):.1f} % (even: {100 / len(share):.1f} %)"
        )
    return lines
