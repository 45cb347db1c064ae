"""Effects of settings as lines of text, for the console and Markdown."""

from __future__ import annotations

from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.answer_lines import NOT_ZERO, Cell, Line
from dreambooth.study.answers.effects import Spread
from dreambooth.study.answers.settings import short, word

HEADING = "What each setting changes, all else equal"
HEADERS = ("setting", "from, to")
MEANING = (
    "each setting: the mean difference over the n pairs of runs that differ in nothing else, and "
    f"the least and the greatest difference. {NOT_ZERO} all of them have the same sign."
)


def effect_lines(answer: Answer) -> list[Line]:
    """Write a line for every effect; none where the runs are no grid."""
    lines = []
    for effect in answer.effects:
        change = f"{_value(effect.key, effect.base)}, {_value(effect.key, effect.value)}"
        cells = [_cell(effect.differences.get(c.variant), effect.pairs) for c in answer.columns]
        lines.append(Line("ours", (short(effect.key), change), str(effect.pairs), tuple(cells)))
    return lines


def _value(key: str, value: object) -> str:
    return word(key, value) or "none"


def _cell(spread: Spread | None, pairs: int) -> Cell:
    if spread is None:
        return Cell()
    interval = f"{spread.low:+.3f} to {spread.high:+.3f}"
    if spread.n != pairs:
        interval += f" n={spread.n}"
    return Cell(f"{spread.mean:+.3f}", interval, excludes_zero=spread.has_one_sign)
