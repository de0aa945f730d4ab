"""``ovikit prompt check``: the linter on the command line. No torch, unless a file of prompts is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from ovikit.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ovikit_ovi.text.component import Umt5Config
    from ovikit_ovi.text.notes import Note
    from ovikit_ovi.text.parts import Parts
    from ovikit_ovi.text.prompts import Captions, Checked

_COLOURS = {"error": "bold red", "warning": "yellow", "rewritten": "cyan", "info": "dim"}
_NOTHING = "nothing: this tower reads the empty prompt"
_LABEL = 10
_WIDE = 110


def add_commands(cli: typer.Typer) -> None:
    """Adds ``prompt check``."""
    group = typer.Typer(
        help='Check prompts. Example: ovikit prompt check "A man says <S>Good evening.<E> Audio: light rain"',
        no_args_is_help=True,
    )
    group.command("check")(check_prompts)
    cli.add_typer(group, name="prompt")


class _Row(NamedTuple):
    """read: what each tower reads, where they read texts of their own."""

    label: str
    prompt: str
    checked: Checked
    read: Parts | None


def check_prompts(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Prompts.", show_default=False)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .csv, .tsv, .jsonl or .txt file of prompts.", show_default=False),
    ] = None,
    captions: Annotated[
        Literal["tags", "suffix"] | None,
        typer.Option(
            help="Format of audio captions: <AUDCAP>...<ENDAUDCAP>, or 'Audio: ...' at the end; default: the prompt's.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE", help="Take the format, and what each tower reads, from a recipe.", show_default=False
        ),
    ] = None,
    separate: Annotated[
        bool,
        typer.Option("--separate", help="Show what each tower reads where the recipe has `prompts: separate`."),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Count tokens with the tokenizer of this weights folder.", show_default=False),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Write the rewritten prompts, other columns kept; beside FILE where that names images.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check prompts for the released Ovi: speech tags, audio captions, length.

    Most complaints that the model speaks the whole prompt are prompts that fail this. What is said belongs between
    <S> and <E>.

    The exit status is 1 if there are errors.

    Example: ovikit prompt check --prompts prompts.csv --recipe recipes/reference/ovi-960x960-10s.yaml
    """
    _refuse_options(captions, recipe, write)
    wide = _console()
    if recipe is not None and (apart := _parted(recipe, texts, prompts)) is not None:
        return _show_parted(wide, apart)
    config = _config(recipe)
    wanted = config.captions if recipe is not None else captions
    separate = separate or config.prompts == "separate"
    rows = _checked(_given(texts, prompts), wanted, _counter(weights, config), config.length, separate)
    for row in rows:
        _show(wide, row, alone=prompts is None)
    if write is not None:
        _write(write, prompts, rows)
    wide.print(_summary(rows, wanted, write), soft_wrap=True)
    if any(row.checked.errors for row in rows):
        raise typer.Exit(1)


def _console() -> Console:
    """The terminal; or a file, in lines that are not too short for a prompt."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def _refuse_options(captions: Captions | None, recipe: Path | None, write: Path | None) -> None:
    """UserError for options that do not go together."""
    if write is not None and write.suffix.lower() != ".csv":
        raise UserError(f"prompts are written to .csv files, not to '{write.suffix}'", "--write")
    if captions is not None and recipe is not None:
        raise UserError("--captions and --recipe were both given", hint="a recipe says which format its model knows")


def _config(recipe: Path | None) -> Umt5Config:
    """The conditioner's options in a recipe, or the released ones. UserError for a recipe with another conditioner."""
    from ovikit_ovi.text.component import Umt5Config

    if recipe is None:
        return Umt5Config()
    from ovikit.recipe.load import load_recipe

    slot = load_recipe(recipe).model.conditioner
    if not isinstance(slot.config, Umt5Config):
        raise UserError(
            f"its conditioner is '{slot.type}', whose prompts have no format to check", str(recipe),
            "give a recipe with the conditioner 'umt5'",
        )  # fmt: skip
    return slot.config


def _parted(recipe: Path, texts: Sequence[str] | None, prompts: Path | None) -> list[tuple[str, Parts]] | None:
    """What each tower reads of every prompt, by label, where a recipe has a conditioner of another format that parts
    prompts; None for any other recipe."""
    from ovikit.recipe.load import load_recipe
    from ovikit_ovi.text.component import Umt5Config
    from ovikit_ovi.text.parts import Parts

    found = load_recipe(recipe)
    if isinstance(found.model.conditioner.config, Umt5Config):
        return None
    from ovikit.networks.reading import texts_of
    from ovikit.recipe.build import build_conditioner

    conditioner = build_conditioner(found)
    given = _given(texts, prompts)
    read = [(label, texts_of(conditioner, prompt)) for label, prompt in given]
    if all(text.video == text.audio for _, text in read):
        return None
    return [(label, Parts(text["video"], text["audio"])) for label, text in read]


def _counter(weights: Path | None, config: Umt5Config) -> Callable[[str], int] | None:
    """What counts the tokens of a prompt; None without a weights folder."""
    if weights is None:
        return None
    from ovikit.checkpoints.assets import Assets
    from ovikit_ovi.text.tokenizer import load_tokenizer

    return load_tokenizer(Assets(weights).path(config.tokenizer)).count


def _given(texts: Sequence[str] | None, prompts: Path | None) -> list[tuple[str, str]]:
    """(label, prompt) of every prompt. UserError where they come from nowhere, or from two places."""
    if bool(texts) == (prompts is not None):
        told = "both TEXT and --prompts were given" if texts else "there are no prompts"
        raise UserError(told, hint="give TEXT... or --prompts FILE")
    if prompts is None:
        return [(f"prompt {place}", text) for place, text in enumerate(texts or (), start=1)]
    from ovikit.generate.prompts import read_prompts

    return [(f"row {place}", item.prompt) for place, item in enumerate(read_prompts(prompts), start=1)]


def _checked(
    given: Sequence[tuple[str, str]],
    wanted: Captions | None,
    count: Callable[[str], int] | None,
    length: int,
    separate: bool,
) -> list[_Row]:
    """The prompts with the remarks on them. ``wanted``: the format of captions; None: each prompt's own."""
    from ovikit_ovi.text.parts import parts_of
    from ovikit_ovi.text.prompts import check, format_of

    rows: list[_Row] = []
    for label, one in given:
        captions = wanted or format_of(one)
        checked = check(one, captions, count, length)
        rows.append(_Row(label, one, checked, parts_of(checked.text, captions) if separate else None))
    return rows


def _show(console: Console, row: _Row, alone: bool) -> None:
    """Prints a prompt, the remarks on it and what each tower reads. ``alone``: also what is only worth knowing, the
    rewritten prompt, and the towers' texts of a prompt in order."""
    from rich.text import Text

    from ovikit_ovi.text.notes import one_line

    notes = [note for note in row.checked.notes if alone or note.severity != "info"]
    silent = row.read is not None and not all(row.read)
    if not notes and not silent and (row.read is None or not alone):
        return
    head = Text(f"{row.label}  ", "bold", no_wrap=True, overflow="ellipsis")
    console.print(head.append(one_line(row.prompt), "dim"))
    for note in notes:
        _indented(console, note.severity, _COLOURS[note.severity], _body(note, row.prompt, console.width))
    if alone and row.checked.text != row.prompt:
        _indented(console, "encoded", "bold", [Text(row.checked.text)])
    if row.read is not None:
        _show_read(console, row.read)
    console.print()


def _show_read(console: Console, read: Parts) -> None:
    from rich.text import Text

    for label, text in zip(read._fields, read, strict=True):
        _indented(console, label, "bold", [Text(text) if text else Text(_NOTHING, _COLOURS["warning"])])


def _show_parted(console: Console, parted: Sequence[tuple[str, Parts]]) -> None:
    """Prints what each tower reads of prompts that have no format to check."""
    from rich.text import Text

    for label, read in parted:
        console.print(Text(label, "bold"))
        _show_read(console, read)
    console.print(f"{len(parted)} prompts, parted; their format is free", style="dim")


def _body(note: Note, prompt: str, width: int) -> list[Text]:
    from rich.text import Text

    lines = [Text(note.what)]
    text, carets = note.shown(prompt, max(width - _LABEL - 8, 24))
    if text.strip():
        lines += [Text(text, "dim", no_wrap=True), Text(carets, _COLOURS[note.severity], no_wrap=True)]
    advice = Text(note.advice)
    if note.example:
        advice.append(": ").append(note.example, "green")
    return [*lines, advice]


def _indented(console: Console, label: str, style: str, lines: Sequence[Text]) -> None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_LABEL + 1, no_wrap=True)
    grid.add_column()
    grid.add_row(Text(f"  {label}", style), Group(*lines))
    console.print(grid)


def _summary(rows: Sequence[_Row], wanted: str | None, write: Path | None) -> Text:
    from rich.text import Text

    def having(severity: str) -> int:
        return sum(any(note.severity == severity for note in row.checked.notes) for row in rows)

    sound = sum(all(note.severity == "info" for note in row.checked.notes) for row in rows)
    noun = "prompt" if len(rows) == 1 else "prompts"
    told = Text(f"{len(rows)} {noun}: {sound} in order")
    for label, severity in (("errors in", "error"), ("warnings in", "warning"), ("rewritten", "rewritten")):
        if number := having(severity):
            told.append("; ").append(f"{label} {number}", _COLOURS[severity])
    told.append(f" (audio captions: {wanted or 'as written'})", "dim")
    return told.append(f"\nwritten: {write}") if write is not None else told


def _write(path: Path, source: Path | None, rows: Sequence[_Row]) -> None:
    """Writes the rewritten prompts as CSV, with the other columns of the file that they came from."""
    from ovikit.files import atomic_write_text
    from ovikit_ovi.text.table import rewritten_table

    atomic_write_text(path, rewritten_table(source, [row.checked.text for row in rows]))
