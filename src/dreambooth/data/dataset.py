"""Download the DreamBooth dataset once, from its own repository, every file by its SHA-256."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

from dreambooth.errors import UserError, suggest
from dreambooth.files import atomic, file_hash, readable_size
from dreambooth.locks import locked
from dreambooth.scratch import remove_leftovers

PHOTOS_VARIABLE = "DREAMBOOTH_PHOTOS"
FIX = f"point photos.root=DIR or the environment variable {PHOTOS_VARIABLE} at a copy"
_TIMEOUT = 60  # seconds without a byte

log = logging.getLogger(__name__)


def dataset_subjects() -> tuple[str, ...]:
    """List the names of the dataset's 30 subjects, sorted."""
    names = {_subject(entry) for entry in _manifest()["files"]}
    return tuple(sorted(name for name in names if name is not None))


def fetch_dataset(
    root: Path,
    subjects: Iterable[str] | None = None,
    base_url: str = "https://raw.githubusercontent.com",
) -> Path:
    """Download the DreamBooth dataset (or some `subjects`) with its attribution into `root`, once.

    Every file is compared with its SHA-256 in `dataset_manifest.json` and is either whole or
    absent. Files that are already right are not downloaded again. Processes take turns under a
    file lock. Source: github.com/google/dreambooth (CC BY 4.0) at the manifest's commit.

    Returns:
        `root`, which holds one folder per subject.

    Raises:
        UserError: an unknown subject, no network, other content, or a full disk.
    """
    manifest = _manifest()
    wanted = set(dataset_subjects() if subjects is None else subjects)
    for name in sorted(wanted.difference(dataset_subjects())):
        raise UserError(suggest(name, dataset_subjects()))
    entries = [entry for entry in manifest["files"] if _subject(entry) in wanted | {None}]
    if not _missing(root, entries):  # without the lock, so that a read-only copy works too
        return root
    source = f"{base_url}/{manifest['repository']}/{manifest['commit']}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".fetch"):
            remove_leftovers(root, deep=True)
            missing = _missing(root, entries)
            log.info(
                "downloading %d files (%s) of the DreamBooth dataset from %s into %s",
                len(missing),
                readable_size(sum(entry["bytes"] for entry in missing)),
                source,
                root,
            )
            for entry in missing:
                data = _download(f"{source}/{quote(entry['path'])}", entry)
                with atomic(_local(root, entry)) as file:
                    file.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"cannot write the dataset into {root} ({error.strerror or error}): "
            f"free some space, choose another folder, or {FIX}."
        ) from error
    return root


def _manifest() -> dict:
    return json.loads((resources.files("dreambooth.data") / "dataset_manifest.json").read_text())


def _subject(entry: dict) -> str | None:
    """Return the subject of a manifest entry: "dog" for dataset/dog/00.jpg, None for the texts."""
    parts = entry["path"].split("/")
    return parts[1] if len(parts) == 3 else None


def _local(root: Path, entry: dict) -> Path:
    return root / entry["path"].removeprefix("dataset/")


def _missing(root: Path, entries: list[dict]) -> list[dict]:
    return [entry for entry in entries if not _is_right(_local(root, entry), entry)]


def _is_right(path: Path, entry: dict) -> bool:
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return file_hash(path) == entry["sha256"]


def _download(url: str, entry: dict) -> bytes:
    try:
        with urlopen(url, timeout=_TIMEOUT) as response:
            data = response.read(entry["bytes"] + 1)  # never more than expected
    except Exception as error:  # URLError, timeouts, http.client's own, broken proxies
        reason = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        raise UserError(
            f"cannot download {url} ({reason}): run again with a network, or {FIX} of the dataset."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise UserError(
            f"{url} has SHA-256 {digest[:16]}..., not {entry['sha256'][:16]}..., and was "
            f"discarded: run again, or {FIX} of the dataset."
        )
    return data
