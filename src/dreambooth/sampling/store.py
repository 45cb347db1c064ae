"""A folder of drawn images with a manifest: what is there is kept, what is missing is drawn.

Class images, samples and an evaluation's images are all kept this way. `manifest.csv` has one row
per image: what it shows, its seed, its SHA-256, and `provenance`, the key of the facts that it was
drawn under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.errors import UserError
from dreambooth.files import atomic_files, cache_key, file_hash, read_csv, write_csv
from dreambooth.locks import locked
from dreambooth.png_text import png_info
from dreambooth.sampling.manifest import COLUMNS, Item
from dreambooth.sampling.progress import progress_bar
from dreambooth.scratch import remove_leftovers

Draw = Callable[[Sequence[str], Sequence[int]], list[Image.Image]]
"""`prompts, seeds => images`, each depending on its own prompt and seed alone."""
Text = Callable[[str, int], Mapping[str, str]]
"""`prompt, seed => the texts by key` that an image's PNG carries."""
Rows = Mapping[str, Mapping[str, Any]]
"""Rows of a manifest by file."""


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
