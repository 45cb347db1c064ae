"""What tells settings apart in a figure: colours and markers, and the legend that explains them.

A few settings have a colour and a marker each. Of many, as in a grid, colours stand for the values
of one thing that varies, and markers for those of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dreambooth.study.answers.answer import Row
from dreambooth.study.answers.settings import OVER, words
from dreambooth.study.figures.style import COLOURS, MARKERS, colours

FEW = 8  # settings that can have a colour each
LETTERS = 13.0  # per inch of a small text


@dataclass(frozen=True)
class Look:
    """How one setting is drawn; settings of one `group` have one colour and one mean curve."""

    group: str
    colour: str
    marker: str


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """Choose how each row but the real images is drawn, by the row's name."""
    rows = [row for row in rows if row.kind != "real"]
    keys = by_keys(rows)
    if not keys:
        colour = colours(rows)
        return {
            row.name: Look(row.name, colour[row.name], MARKERS[i % len(MARKERS)])
            for i, row in enumerate(rows)
        }
    values = [values_of(rows, key) for key in keys[:2]]
    result = {}
    for row in rows:
        places = [own.index(row.setting.get(k)) for k, own in zip(keys, values, strict=False)]
        group = words({keys[0]: row.setting.get(keys[0])})
        marker = MARKERS[places[1]] if len(places) > 1 else MARKERS[0]
        result[row.name] = Look(group, COLOURS[places[0]], marker)
    return result


def by_keys(rows: Sequence[Row]) -> list[str]:
    """List what varies over many rows, each with few values; nothing where the rows are few."""
    if len(rows) <= FEW:
        return []
    keys = dict.fromkeys(key for row in rows for key in row.setting if key not in OVER)
    return [key for key in keys if 1 < len(values_of(rows, key)) <= len(COLOURS)]


def values_of(rows: Sequence[Row], key: str) -> list[Any]:
    """List the values of a setting in the order of the rows."""
    values: list[Any] = []
    for row in rows:
        if row.setting.get(key) not in values:
            values.append(row.setting.get(key))
    return values


def spread(rows: Sequence[Row], most: int) -> tuple[list[Row], Mapping[str, Any]]:
    """Choose at most `most` rows that differ in as many settings as they can show.

    The first settings vary; each that would make too many stays at its middle value.

    Returns:
        the rows, and the settings that all of them share though others would differ.
    """
    keys = by_keys(rows) if len(rows) > most else []
    count, held = 1, {}
    for key in keys:
        values = values_of(rows, key)
        if count * len(values) <= most:
            count *= len(values)
        else:
            held[key] = values[len(values) // 2]
    chosen = [row for row in rows if all(row.setting.get(k) == v for k, v in held.items())]
    return list(chosen)[:most], held


def legend_below(figure: Figure, rows: Sequence[Row], has_markers: bool = False) -> None:
    """Put the legend under the panels, in as many columns as fit, and make the figure as high.

    Args:
        has_markers: whether the figure draws marks; else it draws lines.
    """
    rows = [row for row in rows if row.kind != "real"]
    keys, entries = by_keys(rows), {}
    for look in looks(rows).values():
        marker = MARKERS[0] if keys else look.marker
        entries.setdefault(look.group, {"color": look.colour, "marker": marker})
    for i, value in enumerate(values_of(rows, keys[1]) if has_markers and keys[1:] else ()):
        entries[words({keys[1]: value})] = {"color": "black", "marker": MARKERS[i]}
    if len(entries) < 2:
        return
    width, height = figure.get_size_inches()
    longest = max(map(len, entries)) / LETTERS + 0.6  # inches, with its mark
    columns = max(1, min(len(entries), int(width / longest)))
    figure.set_size_inches(width, height + 0.2 * -(-len(entries) // columns) + 0.1)
    handles = [
        Line2D([], [], linestyle="", **entry)
        if has_markers
        else Line2D([], [], linewidth=2, color=entry["color"])
        for entry in entries.values()
    ]
    style = {"ncols": columns, "frameon": False, "fontsize": "small"}
    figure.legend(handles, list(entries), loc="outside lower left", **style)
