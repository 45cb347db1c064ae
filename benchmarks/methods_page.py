"""The page of `methods.py`: a table of means, paired differences, and strips of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from pocket_effects import Subject

from dreambooth.sampling.grid import grid
from dreambooth.study.answers.paired import Mean

SHARES = ("binding", "context", "drift", "diversity")
SCORES = ("dino", "clip_i", "clip_t", "pres", "div_class")
PERCENT, JUDGED = ("binding", "context"), (*SHARES, *SCORES)
FEW = 4  # subjects below which an interval over them would say nothing
COSTS = ("steps", "seconds", "cpu_seconds")
SHOWN = {"own": 2, "placed": 2, "class": 2}  # pictures of each kind in a strip
Record = dict[str, Any]


class Pictured(Protocol):
    """One training, and the folder of its pictures."""

    @property
    def subject(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def place(self) -> Path: ...


def table(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """Write the means over subjects, one row for each method, as Markdown."""
    names = [f"{name}, %" if name in PERCENT else name for name in SHARES]
    head = [
        "method",
        "subjects",
        *names,
        *SCORES,
        "steps",
        "s",
        "CPU s",
        "GiB",
        "trained",
        "file, MB",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in methods:
        own = of_method(records, method)
        if not own:
            continue
        row = [method, str(len(own))]
        row += [cell(Mean.over({s: r[name] for s, r in own.items()}), name) for name in JUDGED]
        row += [f"{sum(r[name] for r in own.values()) / len(own):.0f}" for name in COSTS]
        row.append(f"{max(record['memory'] for record in own.values()):.2f}")
        last = next(iter(own.values()))
        row += [f"{last['trained']:,}", f"{last['file']:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def differences(records: Sequence[Record], methods: Sequence[str], to: str) -> list[str]:
    """Write each method minus the method `to`, over the subjects that both have, as Markdown."""
    base, names = of_method(records, to), [f"{n}, points" if n in PERCENT else n for n in JUDGED]
    lines = ["| " + " | ".join([f"minus {to}", "subjects", *names]) + " |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for method in methods:
        own = of_method(records, method)
        both = [subject for subject in own if subject in base]
        if method == to or not both:
            continue
        row = [method, str(len(both))]
        for name in JUDGED:
            mean = Mean.over({s: own[s][name] - base[s][name] for s in both})
            is_clear = len(both) >= FEW and mean.excludes_zero
            row.append(f"**{cell(mean, name)}**" if is_clear else cell(mean, name))
        lines.append("| " + " | ".join(row) + " |")
    return lines


def of_method(records: Sequence[Record], method: str) -> dict[str, Record]:
    """Pick one method's records, by subject."""
    return {record["subject"]: record for record in records if record["method"] == method}


def cell(mean: Mean, name: str) -> str:
    """Write a mean over subjects, from FEW on with its interval; shares in percent."""
    factor, digits = (100, 0) if name in PERCENT else (1, 2)
    text = f"{factor * mean.value:.{digits}f}"
    if mean.interval is None or mean.subjects < FEW:
        return text
    low, high = (f"{factor * end:.{digits}f}" for end in mean.interval)
    return f"{text} ({low} to {high})"


def strips(jobs: Sequence[Pictured], subject: Subject, path: Path) -> None:
    """Write a subject's photos, and a row of pictures for each method that it was trained by."""
    columns = sum(SHOWN.values())
    photos = subject.photos[:columns]
    blank = Image.new("RGB", photos[0].size, "white")
    rows, labels = [*photos, *[blank] * (columns - len(photos))], [f"{subject.name}: the photos"]
    for job in (job for job in jobs if job.subject == subject.name):
        files = [
            job.place / f"{kind}-{n}.png" for kind, count in SHOWN.items() for n in range(count)
        ]
        if all(file.exists() for file in files):
            rows += [Image.open(file) for file in files]
            labels.append(f"{job.method}: the subject | in the jungle, in the snow | its class")
    grid(rows, columns, labels, cell=96).save(path)
