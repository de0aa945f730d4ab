"""Tables of numbers on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 200
"""Columns of what is written to a file or to another program."""


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: words to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    print_whole(console, table)


def print_whole(console: Console, table: Table) -> None:
    """Prints a table: as wide as it has to be where there is no screen to fit it to."""
    if not console.is_terminal:
        console.width = WIDE
    console.print(table, highlight=False)


def gb(size: float) -> str:
    """Bytes in gigabytes."""
    return f"{size / 1e9:.2f}" if size >= 1e7 else f"{size / 1e9:.2g}"


def tera(flops: float) -> str:
    """FLOPs in units of 10^12."""
    return f"{flops / 1e12:,.1f}" if flops >= 1e11 else f"{flops / 1e12:.2g}"
