"""Write an answer as `answer.md` (GitHub Markdown), `answer.csv` and `answer.tex` (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dreambooth.files import atomic, write_csv
from dreambooth.study.answers.answer import Answer
from dreambooth.study.answers.answer_lines import (
    NOT_ZERO,
    Cell,
    Line,
    ids_of,
    lead_headers,
    legend,
    lines_of,
)
from dreambooth.study.answers.columns import Column
from dreambooth.study.answers.effect_lines import HEADERS, HEADING, MEANING, effect_lines
from dreambooth.study.answers.paired import as_columns

FILES = ("answer.md", "answer.csv", "answer.tex")
MARKDOWN = re.compile(r"([\\`*_\[\]|~$#])")
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$^\dagger$",
    "◆": r"$\diamond$",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def write_answer(folder: Path, answer: Answer) -> None:
    """Write the three files into a folder."""
    for name, text in zip(FILES, (markdown(answer), None, latex(answer)), strict=True):
        if text is None:
            write_csv(folder / name, list(_records(answer)), _record_columns(answer))
        else:
            with atomic(folder / name) as temporary:
                temporary.write_text(text, "utf-8")


# -- CSV ----------------------------------------------------------------------------------------


def _records(answer: Answer) -> Iterator[dict[str, Any]]:
    """List the rows and their differences, under full variant ids.

    Published numbers have columns of their own, by the source's names: `published.DINO`.
    """
    for row in answer.rows:
        start = {"row": row.name, **row.setting}
        counts = {"subjects": len(row.subjects), "runs": len(row.runs)}
        kind = {"real": "real images", "source": "published"}.get(row.kind, "scores")
        published = {f"published.{name}": score for name, score in row.published.items()}
        yield {**start, "kind": kind, **counts, **as_columns(row.scores), **published}
        if row.differences:
            published = {f"published.{n}": d for n, d in row.published_differences.items()}
            yield {
                **start,
                "kind": "difference",
                "baseline": row.baseline,
                **as_columns(row.differences),
                **published,
            }


def _record_columns(answer: Answer) -> list[str]:
    keys = dict.fromkeys(key for row in answer.rows for key in row.setting)
    parts = ("", ".low_95", ".high_95", ".subjects")
    names = dict.fromkeys(name for row in answer.rows for name in row.published)
    return [
        *("row", *keys, "kind", "baseline", "subjects", "runs"),
        *(f"{column.variant}{part}" for column in answer.columns for part in parts),
        *(f"published.{name}" for name in names),
    ]


# -- Markdown -----------------------------------------------------------------------------------


def markdown(answer: Answer) -> str:
    """Write an answer as GitHub Markdown: question, table, ids, notes."""
    published, parts = answer.published, []
    if published:
        parts = [f"# {_md(published.title)}" if published.title else "", _md(published.question)]
        parts += [f"Source: {_md(published.source)}" if published.source else ""]
        parts += [f"The source's finding: {_md(published.finding)}" if published.finding else ""]
    parts.append(_md_table(lead_headers(answer), lines_of(answer), answer.columns))
    if changes := effect_lines(answer):
        parts += [f"**{HEADING}**", _md_table(HEADERS, changes, answer.columns)]
    ids = [
        f"{_md(header)}: `{variant}`" + (f"; published: {_md(stated)}" if stated else "")
        for header, variant, stated in ids_of(answer)
    ]
    meaning = [MEANING] if answer.effects else []
    notes = [_md(sentence) for sentence in (*legend(answer, "bold"), *meaning, *answer.notes)]
    unfinished = [
        _md(f"{run.name} {run.state}: {run.reason}".rstrip(": ")) for run in answer.unfinished
    ]
    lists = {"What was computed": ids, "How to read it": notes, "Not finished": unfinished}
    for heading, items in lists.items():
        if items:
            parts.append("\n".join([f"**{heading}**", "", *(f"- {item}" for item in items)]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _md_table(leads: Sequence[str], lines: Sequence[Line], columns: Sequence[Column]) -> str:
    headers = [*(_md(header) for header in leads), "n"]
    scores = [f"{_md(column.header)} {column.arrow}" for column in columns]
    table = [[*headers, *scores], [*["---"] * len(leads), *["---:"] * (1 + len(scores))]]
    for line in lines:
        cells = [_md(lead.strip()) for lead in line.leads]
        if line.kind in ("published", "difference"):
            cells[0] = f"&nbsp;&nbsp;*{cells[0]}*"
        table.append([*cells, line.n, *(_md_cell(cell) for cell in line.cells)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _md(text: str) -> str:
    """Escape what Markdown and HTML would read as markup; a text becomes one line."""
    text = MARKDOWN.sub(r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _md_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value + (NOT_ZERO * cell.excludes_zero)
    return f"{value} ({cell.interval})" if cell.interval else value


# -- LaTeX --------------------------------------------------------------------------------------


def latex(answer: Answer) -> str:
    """Write an answer as a LaTeX table; it needs the packages booktabs and fontenc (T1)."""
    headers = [*lead_headers(answer), "n", *(f"{c.header} {c.arrow}" for c in answer.columns)]
    number = 1 + len(answer.columns)
    rows = []
    for line in lines_of(answer):
        if line.kind in ("ours", "real") and rows:
            rows.append(r"\addlinespace")
        rows.append(" & ".join(_tex_line(line)) + r" \\")
    published = answer.published
    texts = (published.title, published.question, published.source) if published else ()
    caption = " ".join(text if text[-1] in ".?!" else f"{text}." for text in texts if text)
    notes = [
        f"{header}: {variant}" + (f"; published: {stated}." if stated else ".")
        for header, variant, stated in ids_of(answer)
    ]
    notes += [*legend(answer, "bold"), *answer.notes]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
            r"\begin{table}",
            r"\centering",
            *([rf"\caption{{{_tex(caption)}}}"] if caption else []),
            rf"\begin{{tabular}}{{{'l' * (len(headers) - number)}{'r' * number}}}",
            r"\toprule",
            " & ".join(_tex(header) for header in headers) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\footnotesize",
            *(rf"\par {_tex(text)}" for text in notes),
            r"\end{table}",
            "",
        ]
    )


def _tex_line(line: Line) -> list[str]:
    leads = [_tex(lead.strip()) for lead in line.leads]
    if line.kind in ("published", "difference"):
        leads[0] = rf"\quad {leads[0]}"
    return [*leads, line.n, *(_tex_cell(cell) for cell in line.cells)]


def _tex_cell(cell: Cell) -> str:
    value = _tex(cell.value).replace("-", "$-$") + (_tex(NOT_ZERO) if cell.excludes_zero else "")
    value = rf"\textbf{{{value}}}" if cell.best else value
    return f"{value} ({_tex(cell.interval).replace('-', '$-$')})" if cell.interval else value


def _tex(text: str) -> str:
    """Escape what LaTeX would read as a command; a text becomes one line."""
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
