"""Tables on a console: cut between columns where they are wider than it, never inside a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2  # characters between two columns


@dataclass(frozen=True)
class Block:
    """A column: its heading and its cells, which may have several lines.

    Numbers are aligned on the right, and the last character of their lines is a mark or a space.
    """

    header: str
    cells: Sequence[Text]
    is_number: bool = True

    @property
    def heading(self) -> str:
        """The heading as it is printed: a key that is longer than its values breaks after `_`, `.`.

        `train_text_encoder` over true and false is three lines.
        """
        if self.is_number:
            return f"{self.header} "
        words = [word for word in re.split(r"(?<=[_.])", self.header) if word]
        longest = max(map(cell_len, (*words, *self._lines(self.cells))), default=0)
        lines = [""]
        for word in words:
            fits = cell_len(lines[-1] + word) <= longest
            lines = [*lines[:-1], lines[-1] + word] if fits else [*lines, word]
        return "\n".join(lines)

    @staticmethod
    def _lines(cells: Iterable[Text]) -> list[str]:
        return [line for cell in cells for line in cell.plain.split("\n")]

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        lines = [*self.heading.split("\n"), *self._lines(self.cells)]
        return max(map(cell_len, lines))

    @property
    def padded(self) -> list[Text]:
        """The cells with their lines aligned on the right; spaces at their ends are kept."""
        return [Text("\n").join(self._pad(line) for line in c.split("\n")) for c in self.cells]

    def _pad(self, line: Text) -> Text:
        return Text(" " * (self.width - line.cell_len)) + line


def print_fitted(
    console: Console, title: str, leads: Sequence[Block], columns: Sequence[Block]
) -> None:
    """Print a table as one, or as several with the same leading columns if it is too wide.

    A row that has no cell in a later part is left out of it.
    """
    room = console.width - sum(block.width + GAP for block in leads)
    for number, part in enumerate(_parts(columns, room)):
        rows = [cells for cells in zip(*(block.cells for block in part), strict=True)]
        shown = [i for i, cells in enumerate(rows) if number == 0 or any(c.plain for c in cells)]
        console.print(_table("" if number else title, [*leads, *part], shown if part else None))
        console.print()


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


def _table(title: str, blocks: Sequence[Block], shown: Sequence[int] | None) -> Table:
    """Make a table of the rows with the numbers `shown`, or of all."""
    table = Table(
        title=Text(title, "bold") if title else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    columns = [block.padded if block.is_number else block.cells for block in blocks]
    for block in blocks:
        heading = block.heading.rjust(block.width) if block.is_number else block.heading
        least = max(map(cell_len, block.heading.split("\n")))
        table.add_column(Text(heading), overflow="fold", min_width=least)
    for number in range(len(blocks[0].cells)) if shown is None else shown:
        table.add_row(*(cells[number] for cells in columns))
    return table
