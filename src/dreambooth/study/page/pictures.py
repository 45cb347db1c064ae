"""The pictures of a page: each is held once, as WebP, inside the page or in a folder beside it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageOps

from dreambooth.files import cache_key, file_hash

SIDE = 384  # pixels of the longer side; smaller pictures keep their own
LOSSLESS = (
    128  # up to this side; at 64 pixels lossy WebP smears colours over a tenth of the picture
)
INLINE_BYTES = 24 * 2**20  # a page with more than this in it is slow on a phone


class Pictures:
    """Pictures that a page refers to by number, in the order in which they were added.

    `folder` is where they go if they are too many to be inside the page. A picture is encoded when
    it is added, and kept in memory only while all of them may still be inlined.
    """

    def __init__(self, folder: Path, beside: bool = False) -> None:
        self.folder, self.beside = folder, beside
        self._numbers: dict[str, int] = {}  # by the file's name
        self._paths: dict[Path, int | None] = {}
        self._inside: dict[str, bytes] = {}
        self._size = 0  # bytes of what is inside

    def add(self, path: Path) -> int | None:
        """Add a picture; return its number, or None for a file that is missing or no picture."""
        if path not in self._paths:
            self._paths[path] = self._added(path)
        return self._paths[path]

    def sources(self) -> list[str]:
        """Return each picture's `src`: a data URI, or a file relative to the page.

        Pictures of an earlier page that this one does not show are removed.
        """
        shown = set(self._numbers) if self.beside else set()
        for path in self.folder.glob("*.webp"):
            if path.name not in shown:
                path.unlink()
        if self.beside:
            return [f"{self.folder.name}/{name}" for name in self._numbers]
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        return [f"data:image/webp;base64,{_text(self._inside[name])}" for name in self._numbers]

    def _added(self, path: Path) -> int | None:
        try:
            name = f"{cache_key(file=file_hash(path), side=SIDE, lossless=LOSSLESS)}.webp"
            if name not in self._numbers:
                self._keep(name, path)
        except OSError:  # PIL's error for a file that is no picture is one too
            return None
        return self._numbers.setdefault(name, len(self._numbers))

    def _keep(self, name: str, path: Path) -> None:
        """Encode a picture, unless the folder has it from an earlier page."""
        kept = self.folder / name
        if not (self.beside and kept.exists()):
            self._inside[name] = kept.read_bytes() if kept.exists() else encoded(path)
            self._size += len(self._inside[name])
        self.beside = self.beside or self._size * 4 // 3 > INLINE_BYTES
        if self.beside:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file, content in self._inside.items():
                temporary = (
                    self.folder / f".{file}"
                )  # not flushed to the disk: it can be made again
                temporary.write_bytes(content)
                temporary.replace(self.folder / file)
            self._inside.clear()


def encoded(path: Path) -> bytes:
    """Encode a picture as WebP, turned as its EXIF says, `SIDE` pixels at most.

    Raises:
        OSError: a file that is missing or no picture.
    """
    with Image.open(path) as image:
        picture = ImageOps.exif_transpose(image).convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    lossless = max(picture.size) <= LOSSLESS
    picture.save(buffer, "WEBP", lossless=lossless, quality=75 if lossless else 82, method=2)
    return buffer.getvalue()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
