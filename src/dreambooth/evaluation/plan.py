"""The images that an evaluation scores: which ones, made once, kept with where they came from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from PIL import Image

from dreambooth.data.prompts import fill
from dreambooth.errors import UserError
from dreambooth.files import atomic, cache_key, file_hash, locked
from dreambooth.sampling.draw import slug

SETS = ("subject", "class")
Draw = Callable[[Sequence[str], Sequence[int]], list[Image.Image]]
"""`prompts, seeds => images`, each depending on its own prompt and seed alone."""


@dataclass(frozen=True)
class Item:
    """One image to score; `class_only` is its prompt without the identifier.

    `set` is `subject`, or `class` for images of the class prompt; `seed` -1 where it is not known.
    """

    set: str
    file: str
    prompt: str
    class_only: str
    seed: int


def plan(
    templates: Sequence[str],
    subject_phrase: str,
    class_noun: str,
    class_prompt: str,
    images_per_prompt: int,
    class_images: int,
    class_seed: int,
) -> list[Item]:
    """Seeds 0..n-1 of every prompt, then the class prompt's from `class_seed` on."""
    items = []
    for number, template in enumerate(templates):
        prompt, plain = (fill(template, None, name) for name in (subject_phrase, class_noun))
        for seed in range(images_per_prompt):
            file = f"{number:02d}_{slug(prompt)}_seed{seed}.png"
            items.append(Item("subject", file, prompt, plain, seed))
    for seed in range(class_seed, class_seed + class_images):
        file = f"class_{slug(class_prompt)}_seed{seed}.png"
        items.append(Item("class", file, class_prompt, class_prompt, seed))
    return items


def make_images(
    draw: Draw, items: Sequence[Item], folder: Path, facts: dict, batch_size: int
) -> int:
    """Write the PNGs that `folder` lacks, with `manifest.csv`; returns how many were made.

    An image is kept if its file is the one that the manifest describes, made under the same
    `facts` (model, sampler, steps, guidance ...); images that no item asks for are removed.
    """
    provenance = cache_key(**facts)
    with locked(folder.parent / f".{folder.name}"):
        recorded = _recorded(folder)
        whole = {i: recorded[i.file] for i in items if _is_whole(folder, i, provenance, recorded)}
        for file in recorded.keys() - {item.file for item in items}:
            (folder / Path(file).name).unlink(missing_ok=True)
        missing = [item for item in items if item not in whole]
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            images = draw([item.prompt for item in part], [item.seed for item in part])
            for item, image in zip(part, images, strict=True):
                with atomic(folder / item.file) as temporary:
                    image.save(temporary, format="PNG")
                sha256 = file_hash(folder / item.file)
                whole[item] = {**asdict(item), "sha256": sha256, "provenance": provenance}
            _write(folder, [whole[item] for item in items if item in whole])
        _write(folder, [whole[item] for item in items])
    return len(missing)


def read_manifest(folder: Path) -> list[Item]:
    """The images of any folder with a `manifest.csv` of `file`, `prompt` and `class_only`.

    Where it has no column `set`, images whose prompt holds no identifier (`prompt` equal to
    `class_only`) are the class's. Files are compared with the column `sha256` where it has one.

    Raises:
        UserError: a column, a file or a prompt that is missing, a file named twice or of other
            bytes, or no image of the subject.
    """
    path = folder / "manifest.csv"
    rows = _rows(path)
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


def drawn_under(folder: Path, facts: dict) -> bool:
    """Whether `make_images` made every image of the folder's manifest under these facts."""
    rows, provenance = _recorded(folder).values(), cache_key(**facts)
    return bool(rows) and all(row.get("provenance") == provenance for row in rows)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}): write it as CSV.") from error


def _recorded(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of the folder's manifest by file; empty where there is none."""
    path = folder / "manifest.csv"
    return {row["file"]: row for row in _rows(path) if row.get("file")} if path.exists() else {}


def _is_whole(folder: Path, item: Item, provenance: str, recorded: dict) -> bool:
    row, path = recorded.get(item.file), folder / item.file
    if row is None or row.get("provenance") != provenance or not path.is_file():
        return False
    same = all(row.get(key) == str(value) for key, value in asdict(item).items())
    return same and row.get("sha256") == file_hash(path)


def _write(folder: Path, rows: list[dict]) -> None:
    columns = [*(field.name for field in fields(Item)), "sha256", "provenance"]
    with atomic(folder / "manifest.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
