"""The images of a folder as its `manifest.csv` lists them: what each shows, its seed, its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.files import file_hash, read_csv

SETS = ("subject", "class", "other")
SLUG_BYTES = 160  # of a file name's 255, with room for a seed, a hash and a temporary name


@dataclass(frozen=True)
class Item:
    """One image of a folder; `class_only` is its prompt without the identifier.

    `set` is `subject`, or `class` for images of the class prompt, or `other` for images of another
    class. `seed` is -1 if unknown.
    """

    set: str
    file: str
    prompt: str
    class_only: str
    seed: int


COLUMNS = (*(field.name for field in fields(Item)), "sha256", "provenance")


def items_of_prompts(
    prompts: Sequence[str], class_only: Sequence[str], seeds: Sequence[int]
) -> list[Item]:
    """List the images of every prompt with every seed, in that order, under readable file names."""
    pairs = zip(prompts, class_only, strict=True)
    return [
        Item("subject", f"{number:02d}_{slug(prompt)}_seed{seed}.png", prompt, plain, seed)
        for number, (prompt, plain) in enumerate(pairs)
        for seed in seeds
    ]


def slug(text: str, length: int = 60) -> str:
    """Write a prompt as part of a file name: letters, digits and dashes, in 160 bytes at most."""
    name = "-".join("".join(c if c.isalnum() else " " for c in text).lower().split())[:length]
    return name.encode()[:SLUG_BYTES].decode(errors="ignore")


def read_manifest(folder: Path) -> list[Item]:
    """List the images of any folder whose `manifest.csv` has `file`, `prompt` and `class_only`.

    Without a column `set`, images whose prompt holds no identifier (`prompt` equal to
    `class_only`) are the class's. Files are compared with the column `sha256` if there is one.

    Raises:
        UserError: a column, a file or a prompt that is missing, a file named twice or with other
            bytes, or no image of the subject.
    """
    path = folder / "manifest.csv"
    rows = read_csv(path)
    _check_rows(folder, path, rows)
    items = [
        Item(
            row.get("set") or SETS[row["prompt"] == row["class_only"]],
            row["file"],
            row["prompt"],
            row["class_only"],
            int(row["seed"]) if str(row.get("seed", "")).isdigit() else -1,
        )
        for row in rows
    ]
    for item in items:
        if item.set not in SETS:
            raise UserError(f"{path}: set={item.set} is not one of {', '.join(SETS)}.")
    if not any(item.set == "subject" for item in items):
        raise UserError(
            f"{path} has no image of the subject, for every prompt equals its class_only: give it "
            "a column set with subject or class."
        )
    return items


def _check_rows(folder: Path, path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Refuse a manifest whose rows are incomplete or do not describe the files."""
    if not rows:
        raise UserError(f"{path} names no images: generate images before scoring them.")
    for column in ("file", "prompt", "class_only"):
        if any(not row.get(column) for row in rows):
            raise UserError(f"{path} lacks {column} in some row: every image needs its {column}.")
    lost = [row["file"] for row in rows if not (folder / row["file"]).is_file()]
    if lost:
        raise UserError(
            f"{path} names {len(lost)} files that are not there, {lost[0]} first: generate them "
            "again or take their rows out."
        )
    seen: set[Path] = set()
    for row in rows:
        file = (folder / row["file"]).resolve()
        if file in seen:
            raise UserError(f"{path} names {row['file']} twice: an image counts once.")
        seen.add(file)
        if row.get("sha256") and row["sha256"] != file_hash(file):
            raise UserError(
                f"{folder / row['file']} is not the image that {path} describes (its SHA-256 "
                "differs): generate it again, or take its sha256 out of the table."
            )
