"""safetensors files: byte-identical for equal weights, and a hash of what they hold.

Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dreambooth.files import cache_key, file_hash

CHUNK = 2**24  # bytes that are hashed at a time
MEANING = ("lora_adapter_metadata",)  # metadata that says how tensors are used, such as alpha
# of a JSON file, what says which versions wrote it and where
WRITTEN_BY = ("_diffusers_version", "transformers_version", "_name_or_path")


def sort_header(file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Sort the names in a safetensors file's header, and add `metadata` to it.

    safetensors itself writes the metadata in the random order of a hash table, and a file that
    nobody but its owner can read.
    """
    umask = os.umask(0o077)  # there is no other way to ask
    os.umask(umask)
    file.chmod(0o666 & ~umask)
    with open(file, "r+b") as opened:
        header, size = _header(opened)
        if metadata:
            header["__metadata__"] = {**header.get("__metadata__", {}), **metadata}
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        data = text.encode()
        if len(data) <= size:
            opened.seek(8)
            opened.write(data.ljust(size))
            return
        opened.seek(8 + size)
        tensors = opened.read()
        data += b" " * (-len(data) % 8)  # tensors begin at a multiple of 8 bytes
        opened.seek(0)
        opened.write(len(data).to_bytes(8, "little") + data + tensors)


def read_header(file: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: `dtype`, `shape` and `data_offsets` by name.

    Raises:
        ValueError: the file is not one.
    """
    with open(file, "rb") as opened:
        return _header(opened)[0]


def content_hash(folder: Path) -> str:
    """Hash what the weights below a folder are, in 16 hex digits, and not how they are written.

    Tensors count by name, dtype, shape and bytes; of a file's metadata only what says how adapters
    are scaled; of JSON files all but the versions that wrote them; of others every byte. Texts and
    pictures for readers do not count.
    """
    facts = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.suffix.lower() not in (".md", ".png"):
            facts[file.relative_to(folder).as_posix()] = _content(file)
    return cache_key(**facts)


def _content(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return dict(_tensors(file))
        if file.suffix == ".json":
            value = json.loads(file.read_text("utf-8"))
            if isinstance(value, dict):
                return {key: value[key] for key in value if key not in WRITTEN_BY}
    except (OSError, ValueError, KeyError, TypeError):  # damaged: its bytes are what it holds
        pass
    return file_hash(file)


def _tensors(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name of each tensor of a file with its dtype, shape and SHA-256."""
    with open(file, "rb") as opened:
        header, size = _header(opened)
        metadata = header.pop("__metadata__", {})
        for name in MEANING:
            if name in metadata:
                yield f"metadata/{name}", json.loads(metadata[name])
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            opened.seek(8 + size + start)
            digest = hashlib.sha256()
            for chunk in _chunks(opened, end - start):
                digest.update(chunk)
            yield name, [entry["dtype"], entry["shape"], digest.hexdigest()]


def _chunks(file: BinaryIO, size: int) -> Iterable[bytes]:
    while size > 0:
        chunk = file.read(min(size, CHUNK))
        if not chunk:
            raise ValueError("the file ends within a tensor")
        size -= len(chunk)
        yield chunk


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Read the header and its size in bytes."""
    size = int.from_bytes(file.read(8), "little")
    text = file.read(size) if size < 2**28 else b""
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("the header holds no names")
    return header, size
