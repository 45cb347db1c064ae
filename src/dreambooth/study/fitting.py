"""Tables on a console: cut between columns where they are wider than it, never inside a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 3  # characters between two columns


@dataclass(frozen=True)
class Block:
    """A column: its heading, which is one line, and its cells, which may have several."""

    header: str
    cells: Sequence[Text]
    is_number: bool = True

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        texts = (self.header, *(cell.plain for cell in self.cells))
        return max(cell_len(line) for text in texts for line in text.split("\n"))


def print_fitted(
    console: Console, title: str, leads: Sequence[Block], columns: Sequence[Block]
) -> None:
    """Print a table as one, or as several with the same leading columns if it is too wide."""
    room = console.width - sum(block.width + GAP for block in leads)
    for number, part in enumerate(_parts(columns, room)):
        console.print(_table("" if number else title, [*leads, *part]))


def _parts(columns: Sequence[Block], room: int) -> list[list[Block]]:
    """Put columns into parts that each fit into `room` characters; a part has one column at least.

    The parts are as few as possible and about equally wide.
    """
    parts = _filled(columns, room)
    least = min(room, sum(block.width + GAP for block in columns) // len(parts)) if parts else 0
    while parts and len(_filled(columns, least)) > len(parts):
        least += 1
    return _filled(columns, least) or [[]]


def _filled(columns: Sequence[Block], room: int) -> list[list[Block]]:
    parts: list[list[Block]] = []
    for block in columns:
        last = parts[-1] if parts else []
        if last and sum(other.width + GAP for other in last) + block.width <= room:
            last.append(block)
        else:
            parts.append([block])
    return parts


def _table(title: str, blocks: Sequence[Block]) -> Table:
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for block in blocks:
        justify = "right" if block.is_number else "left"
        table.add_column(
            Text(block.header), justify=justify, overflow="fold", min_width=cell_len(block.header)
        )
    for cells in zip(*(block.cells for block in blocks), strict=True):
        table.add_row(*cells)
    return table
