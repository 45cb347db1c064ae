"""Text in PNG files: write it, read it, and hash a picture as if it had none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreambooth.errors import UserError, reason

SIGNATURE = b"\x89PNG\r\n\x1a\n"
OWN_KEY = "dreambooth"  # our own facts, as JSON
SHARED_KEY = "parameters"  # the text that AUTOMATIC1111 writes and other programs read
TEXT_CHUNKS = (b"tEXt", b"iTXt", b"zTXt")


def png_info(text: Mapping[str, str]) -> PngInfo:
    """Make what Pillow writes into a PNG: Latin-1 as tEXt, anything else as iTXt (UTF-8)."""
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    return info


def read_text(path: str | Path) -> dict[str, str]:
    """Read the texts of a PNG by key, or the comment of a film of ours; others have none.

    Raises:
        UserError: a file that is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            image.load()  # texts may stand behind the pixels
            if image.format == "GIF" and "comment" in image.info:
                return {OWN_KEY: image.info["comment"].decode(errors="replace")}
            return dict(getattr(image, "text", {}))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give an image that dreambooth drew.") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise UserError(
            f"{path} cannot be read as an image ({reason(error)}): give a PNG that dreambooth drew."
        ) from error


def hash_without_text(path: str | Path) -> str:
    """Hash a file's bytes without the text that this program writes: SHA-256, 64 hex digits.

    A picture therefore keeps its hash, and what is cached under it, whatever its text says. Files
    without the key `dreambooth` are hashed whole.
    """
    data = Path(path).read_bytes()
    if data.startswith(SIGNATURE) and f"{OWN_KEY}\0".encode() in data:
        data = _without_text(data)
    return hashlib.sha256(data).hexdigest()


def _without_text(data: bytes) -> bytes:
    """Leave the text chunks of our two keys out, if the file is whole and holds our own key."""
    kept, start, is_ours = [SIGNATURE], len(SIGNATURE), False
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")  # length, type, CRC
        if end > len(data):
            return data
        kind, content = data[start + 4 : start + 8], data[start + 8 : end - 4]
        keyword = content.partition(b"\0")[0].decode("latin-1")
        if kind in TEXT_CHUNKS and keyword in (OWN_KEY, SHARED_KEY):
            is_ours = is_ours or keyword == OWN_KEY
        else:
            kept.append(data[start:end])
        start = end
    return b"".join(kept) if is_ours else data
