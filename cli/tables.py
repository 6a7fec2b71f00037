"""Tables for people: one look for all commands, and the whole text when the output is not a terminal.

Data is never read as markup: a column named `[red]` is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 200
"""Columns of text when there is no terminal to ask; wide, so that a script sees whole paths."""


def console() -> Console:
    """Return a console on standard output that takes text literally."""
    made = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
    return made if made.is_terminal else Console(markup=False, highlight=False, emoji=False, soft_wrap=True, width=PIPED_WIDTH)


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Table:
    """Return a table; the columns numbered in `right` are aligned to the right."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, head in enumerate(heads):
        made.add_column(head, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
