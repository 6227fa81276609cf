"""Columns on a terminal: a table that is never cut, however narrow the window.

Rich is imported when a table is made. Cells are plain text, never markup.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["heading", "open_console", "pairs", "print_table"]

_PIPED_WIDTH = 132
_NUMBER = re.compile(r"[+-]?[\d,.]+(e[+-]\d+)?(%| ?[A-Za-z]+)?")  # with its unit
_LONG_TEXT = 30  # characters from which a last column of text is folded rather than moved below


def print_table(
    console: "Console", columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", words: int = 0
) -> None:
    """A table whose numbers are flush right; its first `words` columns, and those that hold no numbers, are text.

    Never cut: where the terminal is too narrow, the columns go on in further tables below, each with the first column;
    a last column of long text is folded.
    """
    rows = list(rows)
    widths = [max(map(len, (name, *(row[place] for row in rows)))) + 3 for place, name in enumerate(columns)]
    for places in _blocks(widths, console.width):
        _block(console, places, columns, rows, words)
    if caption:
        console.print(caption, style="dim", markup=False)


def _blocks(widths: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each table, as many as have room; the first stands in all of them."""
    last = len(widths) - 1
    blocks, used = [[0]], widths[0]
    for place in range(1, len(widths)):
        needed = min(widths[place], _LONG_TEXT) if place == last else widths[place]
        if used + needed - 1 > room and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(place)
        used += needed
    return blocks


def _block(
    console: "Console", places: Sequence[int], columns: Sequence[str], rows: Sequence[Sequence[str]], words: int
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place in places:
        text = place < words or not any(_NUMBER.fullmatch(row[place]) for row in rows)
        folds = text and place == len(columns) - 1
        table.add_column(Text(columns[place]), justify="left" if text else "right", overflow="fold", no_wrap=not folds)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in places))
    console.print(table)


def open_console() -> "Console":
    """Standard output; piped, wide enough that no column is cut."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPED_WIDTH)


def heading(console: "Console", title: str, note: str) -> None:
    """A title, and what it means below it."""
    console.print(title, style="bold", markup=False)
    console.print(note, style="dim", markup=False)


def pairs(console: "Console", rows: Iterable[tuple[str, str, str]]) -> None:
    """Headline numbers: name, value, what it means."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value, note in rows:
        grid.add_row(Text(name), Text(value, style="bold"), Text(note, style="dim"))
    console.print(grid)
