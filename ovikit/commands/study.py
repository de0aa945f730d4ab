"""``ovikit study``: pairs of clips before raters. Thin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovikit.commands.tables import print_table
from ovikit.errors import UserError, listed

if TYPE_CHECKING:
    from rich.console import Console

    from ovikit.study.analysis import Report

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def app_command(cli: typer.Typer) -> None:
    """Adds ``study new``, ``study serve`` and ``study report``."""
    group = typer.Typer(no_args_is_help=True, help="A blind study of preferences, in the browser.")
    for command in (new, serve, report):
        group.command()(command)
    cli.add_typer(group, name="study")


def new(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of the study.", show_default=False)],
    clips: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Folder of ID.mp4 files of a model; two or more.", show_default=False),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What each model is called; default: its folder's name.", show_default=False),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Name of the study; default: its folder's.", show_default=False)
    ] = None,
    prompt_set: Annotated[str, typer.Option(help="What the prompts are called, in votes.", show_default=False)] = "",
    prompts: Annotated[
        int | None, typer.Option(min=1, help="As many prompts, drawn by the seed; default: all.", show_default=False)
    ] = None,
    per_rater: Annotated[
        int | None, typer.Option(min=1, help="Pairs that a rater is shown; default: all.", show_default=False)
    ] = None,
    checks: Annotated[int, typer.Option(min=0, help="Attention checks that a rater is shown beside them.")] = 2,
    seed: Annotated[int, typer.Option(help="Draws prompts, orders and sides.")] = 0,
) -> None:
    """Make a study of folders of clips: every prompt that all of them have, in pairs, under names that tell nothing.

    Example: ovikit study new studies/mine --clips runs/ovi/clips --clips runs/other/clips --per-rater 30
    """
    from rich.console import Console

    from ovikit.commands.metrics import labels_of
    from ovikit.commands.progress import evaluation_progress
    from ovikit.study.new import make

    names = list(name) if name else labels_of([_called(one) for one in clips])
    if len(names) != len(clips) or len(set(names)) != len(names):
        raise UserError(f"there are {len(clips)} folders and {len(set(names))} names", "--name", "name each once")
    console = Console(soft_wrap=True)
    with evaluation_progress(console) as shown:
        made = make(
            study, dict(zip(names, clips, strict=True)), name=title, prompt_set=prompt_set, most_prompts=prompts,
            per_rater=per_rater, checks_per_rater=checks, seed=seed, told=lambda n, total: shown("clips", n, total),
        )  # fmt: skip
    found = made.study
    told = f"{len(found.judged)} pairs of {', '.join(found.models)}; a rater is shown {found.per_rater} of them"
    console.print(f"{told} and {found.checks_per_rater} checks: {study}", highlight=False, markup=False)
    if made.left_out:
        reasons = [f"{clip}: {why}" for clip, why in made.left_out.items()]
        console.print(f"{len(reasons)} clips left out: {listed(reasons, 8)}", highlight=False, markup=False)
    if found.checks_per_rater < checks:
        console.print("fewer clips have sound that could be spoiled than checks were asked for", highlight=False)
    console.print(f"put it before raters: ovikit study serve {study}", highlight=False, markup=False)


def _called(clips: Path) -> str:
    """What a model is called: its folder, or where that is only ``clips`` the one above."""
    path = clips.resolve()
    return path.parent.name if path.name in ("clips", "prompted") and path.parent.name else path.name


def serve(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8765,
) -> None:
    """Put a study before raters until it is stopped. Votes are on the disk before they are answered: stop it, or lose
    power, and start it again; raters go on with their links.

    Example: ovikit study serve studies/mine
    """
    from rich.console import Console

    from ovikit.study.records import read_study
    from ovikit.study.serve import serve as run
    from ovikit.study.votes import Votes

    console = Console(soft_wrap=True)
    raters, done, total = Votes(study, read_study(study)).progress()
    if done:
        console.print(f"{raters} raters so far, {done} of {total} pairs", highlight=False)
    shown = f"[{host}]" if ":" in host else host
    console.print(f"raters begin at http://{shown}:{port}/  (Ctrl-C stops)", highlight=False, markup=False)
    if host not in LOOPBACK:
        console.print("whoever reaches this address can take part and see the clips", highlight=False)
    run(study, host, port)


def report(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY|FILE", help="Folder of a study, or votes as JSONL.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report; default: report in the study's.")
    ] = None,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Count raters who failed half of their checks or more, too.")
    ] = False,
) -> None:
    """Say what the votes say so far, also while the study is served: win rates, strengths, agreement, side bias.

    Example: ovikit study report studies/mine
    """
    from rich.console import Console

    from ovikit.study.analysis import analyse
    from ovikit.study.records import read_study, read_votes
    from ovikit.study.report import write_report
    from ovikit.study.votes import Votes

    console = Console(soft_wrap=True)
    votes = Votes(study, read_study(study)).all() if study.is_dir() else read_votes(study)
    found = analyse(votes, keep_failed)
    _show(console, found)
    for path in write_report(found, votes, out or (study if study.is_dir() else study.parent) / "report"):
        console.print(f"written: {path}", highlight=False, markup=False)


def _show(console: Console, found: Report) -> None:
    from ovikit.study.report import show_range, show_rate

    rows = [
        (
            one.dimension, one.model, one.other, str(one.votes), str(one.win), str(one.tie), str(one.both_bad),
            str(one.loss), show_rate(one.with_ties), show_range(one.with_ties), show_rate(one.without_ties),
        )
        for one in found.duels
    ]  # fmt: skip
    header = ("", "model", "against", "votes", "wins", "ties", "both bad", "losses", "with ties", "95 %", "without")
    print_table(console, header, rows)
    out = [one for one in found.raters if one.left_out]
    console.print(
        f"{found.votes} votes of {len(found.raters) - len(out)} raters; {len(out)} left out, who failed checks;"
        f" left side preferred in {show_rate(found.left_wins)}", highlight=False,
    )  # fmt: skip
