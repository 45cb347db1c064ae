"""Damage to a file: a flipped bit somewhere, less of it, or other bytes."""

from __future__ import annotations

import random
from pathlib import Path

DAMAGES = ("head", "middle", "end", "cut", "empty", "garbage", "deleted", "another", "doubled")


def damage(path: Path, kind: str, another: Path | None = None) -> bool:
    """Damage a file in one of the `DAMAGES`: a flipped bit somewhere, less of it, or other bytes.

    Args:
        another: for `another`, a file of the same kind that belongs to something else.

    Returns:
        whether the file differs now; an empty one has no bit to flip.
    """
    data = path.read_bytes()
    places = {"head": min(9, len(data) - 1), "middle": len(data) // 2, "end": len(data) - 1}
    path.unlink()  # a second name of the same file stays whole
    if kind in places and data:
        place = places[kind]
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif kind == "doubled":
        path.write_bytes(data + data)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(random.Random(len(data)).randbytes(max(64, len(data) // 2)))
    elif kind == "another" and another is not None:
        path.write_bytes(another.read_bytes())
    elif kind != "deleted":
        path.write_bytes(data)
    return kind == "deleted" or path.exists() and path.read_bytes() != data
