"""A folder of drawn images with a manifest: what is there is kept, what is missing is drawn.

Class images, samples and an evaluation's images are all kept this way. `manifest.csv` has one row
per image: what it shows, its seed, its SHA-256, and `provenance`, the key of the facts that it was
drawn under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.errors import UserError
from dreambooth.files import atomic_files, cache_key, file_hash, read_csv, write_csv
from dreambooth.locks import locked
from dreambooth.png_text import png_info
from dreambooth.sampling.progress import progress_bar
from dreambooth.scratch import remove_leftovers

SETS = ("subject", "class", "other")
SLUG_BYTES = 160  # of a file name's 255, with room for a seed, a hash and a temporary name
Draw = Callable[[Sequence[str], Sequence[int]], list[Image.Image]]
"""`prompts, seeds => images`, each depending on its own prompt and seed alone."""
Text = Callable[[str, int], Mapping[str, str]]
"""`prompt, seed => the texts by key` that an image's PNG carries."""
Rows = Mapping[str, Mapping[str, Any]]
"""Rows of a manifest by file."""


@dataclass(frozen=True)
class Item:
    """One image of a folder; `class_only` is its prompt without the identifier.

    `set` is `subject`, `class` for images of the class prompt, or `other` for those of another
    class; `seed` is -1 if unknown.
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


@dataclass(frozen=True)
class ImageStore:
    """The images of one folder.

    Args:
        facts: JSON values that all images depend on.
        text: what each image's PNG says of itself; None leaves the files without text.
    """

    folder: Path
    facts: Mapping[str, Any]
    text: Text | None = None

    @property
    def provenance(self) -> str:
        """The key of `facts`, as the manifest records it."""
        return cache_key(**self.facts)

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """List the images that `fill` would draw."""
        recorded = self._recorded()
        return [item for item in items if not self._has(item, recorded)]

    def fill(
        self,
        draw: Draw,
        items: Sequence[Item],
        batch_size: int,
        keep_others: bool = False,
        title: str = "",
    ) -> int:
        """Draw the images that are missing by prompt and seed: see `fill_items`."""
        return self.fill_items(
            lambda part: draw([item.prompt for item in part], [item.seed for item in part]),
            items,
            batch_size,
            keep_others,
            title,
        )

    def fill_items(
        self,
        draw: Callable[[Sequence[Item]], list[Image.Image]],
        items: Sequence[Item],
        batch_size: int,
        keep_others: bool = False,
        title: str = "",
    ) -> int:
        """Draw the images that are missing; return how many were.

        An image is kept if its file is the one that the manifest describes, drawn under the same
        facts. Images that no item asks for are removed, unless `keep_others`. With a `title`, a bar
        shows the time left.
        """
        with locked(self.folder.parent / f".{self.folder.name}"):
            remove_leftovers(self.folder)
            recorded = self._recorded()
            rows = {item.file: recorded[item.file] for item in items if self._has(item, recorded)}
            asked = {item.file for item in items}
            others = {file: row for file, row in recorded.items() if file not in asked}
            if not keep_others:
                for file in others:
                    (self.folder / Path(file).name).unlink(missing_ok=True)
                others = {}
            missing = [item for item in items if item.file not in rows]
            with progress_bar(title, len(missing)) as advance:
                for start in range(0, len(missing), batch_size):
                    part = missing[start : start + batch_size]
                    rows |= self._save(part, draw(part))
                    self._record(items, rows, others)
                    advance(len(part))
            if not missing:
                self._record(items, rows, others)
        return len(missing)

    def replace(self, items: Sequence[Item], images: Sequence[Image.Image]) -> None:
        """Save these images, over any of the same names, and record no others."""
        with locked(self.folder.parent / f".{self.folder.name}"):
            rows = self._save(items, images)
            self._record(items, rows, {})

    def holds(self, items: Sequence[Item]) -> bool:
        """Tell whether the folder has exactly these images, drawn under these facts."""
        recorded = self._recorded()
        asked = [item.file for item in items]
        return list(recorded) == asked and all(self._has(item, recorded) for item in items)

    def keep_only(self, files: set[str]) -> None:
        """Remove the images of the manifest that are not among `files`, and their rows."""
        with locked(self.folder.parent / f".{self.folder.name}"):
            recorded = self._recorded()
            for file in recorded.keys() - files:
                (self.folder / Path(file).name).unlink(missing_ok=True)
            self._record([], {}, {file: row for file, row in recorded.items() if file in files})

    def is_whole(self) -> bool:
        """Tell whether every image of the manifest was drawn under these facts."""
        rows = self._recorded().values()
        return bool(rows) and all(row.get("provenance") == self.provenance for row in rows)

    def _has(self, item: Item, recorded: Rows) -> bool:
        """Tell whether an image's file is the one that its row describes, under these facts."""
        row, path = recorded.get(item.file), self.folder / item.file
        if row is None or row.get("provenance") != self.provenance or not path.is_file():
            return False
        same = all(row.get(key) == str(value) for key, value in asdict(item).items())
        return same and row.get("sha256") == file_hash(path)

    def _save(
        self, items: Sequence[Item], images: Sequence[Image.Image]
    ) -> dict[str, dict[str, Any]]:
        """Write images, and return their rows by file."""
        rows = {}
        with atomic_files(self.folder) as temporary:
            for item, image in zip(items, images, strict=True):
                path, text = temporary / item.file, {}
                if self.text is not None:
                    text = self.text(item.prompt, item.seed)
                image.save(path, format="PNG", pnginfo=png_info(text))
                made = {"sha256": file_hash(path), "provenance": self.provenance}
                rows[item.file] = {**asdict(item), **made}
        return rows

    def _recorded(self) -> dict[str, dict[str, str]]:
        """Read the manifest's rows by file; none where there is no manifest that can be read."""
        path = self.folder / "manifest.csv"
        try:
            rows = read_csv(path) if path.exists() else []
        except UserError:
            return {}  # what it described is drawn again
        return {row["file"]: row for row in rows if row.get("file")}

    def _record(self, items: Sequence[Item], rows: Rows, others: Rows) -> None:
        ours = [rows[item.file] for item in items if item.file in rows]
        rest = [others[file] for file in sorted(others)]
        write_csv(self.folder / "manifest.csv", [*ours, *rest], COLUMNS)


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
