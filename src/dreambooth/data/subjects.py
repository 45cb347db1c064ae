"""Where a subject's photos lie; the DreamBooth dataset is fetched once, from its own repository."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

from filelock import FileLock

from dreambooth.errors import UserError
from dreambooth.files import atomic

PHOTOS_VARIABLE = "DREAMBOOTH_PHOTOS"
_MEND = f"point photos.root=DIR or the environment variable {PHOTOS_VARIABLE} at a copy"
_OWN = "photos of your own: subject.photos=DIR"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIMEOUT = 60  # seconds without a byte

log = logging.getLogger(__name__)


def check_name(name: str) -> str:
    """`name` if it is safe in a path: 1 to 64 of A-Z a-z 0-9 . _ - and not only dots.

    Raises UserError otherwise.
    """
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise UserError(
            f"the subject name {name[:80]!r} is not allowed: use 1 to 64 letters, digits, '.', '_' "
            "or '-'."
        )
    return name


def suggest(word: str, choices: Iterable[str], what: str = "subject") -> str:
    """The sentence for a word that is none of `choices`, naming the nearest one, or else all."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word.lower(), choices, n=1)
    mend = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(choices)}."
    return f"unknown {what} {word[:80]!r}: {mend}"


def subject_folder(
    name: str, photos_dir: str | None, root: str | None, cache_dir: str | Path
) -> Path:
    """The folder of the subject's photos: `photos_dir`, or `root`/name, or the fetched dataset's.

    The dataset's subject is fetched into `cache_dir`/dreambooth unless it is there.
    Raises UserError for a name that is unsafe or unknown, and as `fetch_dataset` does.
    """
    check_name(name)
    if photos_dir is not None:
        return Path(photos_dir).expanduser()
    if root is not None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise UserError(f"photos.root={root} is not a folder: {_MEND} of the dataset.")
        if (folder / name).is_dir():
            return folder / name
        there = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
        hint = suggest(name, there) if there else "it holds no sub-folder at all."
        raise UserError(f"in photos.root={root}: {hint} ({_OWN})")
    if name not in dataset_subjects():
        raise UserError(f"{suggest(name, dataset_subjects())} ({_OWN})")
    return fetch_dataset(Path(cache_dir) / "dreambooth", [name]) / name


def dataset_subjects() -> tuple[str, ...]:
    """The names of the dataset's 30 subjects, sorted."""
    return tuple(sorted({_subject(entry) for entry in _manifest()["files"]} - {None}))


def fetch_dataset(
    root: Path,
    subjects: Iterable[str] | None = None,
    base_url: str = "https://raw.githubusercontent.com",
) -> Path:
    """Fetches the DreamBooth dataset (or some `subjects`) with its attribution into `root`, once.

    Every file is held to its SHA-256 in `dataset_manifest.json` and is either whole or absent;
    files already right are not fetched again. Processes take turns under a file lock.
    Source: github.com/google/dreambooth (CC BY 4.0) at the manifest's commit.
    Raises UserError for an unknown subject, no network, another content, or no space.
    """
    manifest = _manifest()
    wanted = set(dataset_subjects() if subjects is None else subjects)
    for name in sorted(wanted.difference(dataset_subjects())):
        raise UserError(suggest(name, dataset_subjects()))
    entries = [entry for entry in manifest["files"] if _subject(entry) in wanted | {None}]
    if not _missing(root, entries):  # needs no lock, so that a read-only copy serves too
        return root
    source = f"{base_url}/{manifest['repository']}/{manifest['commit']}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".fetch.lock"):
            missing = _missing(root, entries)
            log.info(
                "fetching %d files (%.1f MB) of the DreamBooth dataset from %s into %s",
                len(missing),
                sum(entry["bytes"] for entry in missing) / 1e6,
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
            f"free or change that place, or {_MEND}."
        ) from error
    return root


def _manifest() -> dict:
    return json.loads((resources.files("dreambooth.data") / "dataset_manifest.json").read_text())


def _subject(entry: dict) -> str | None:
    """dataset/dog/00.jpg is of "dog"; the texts and the licence are of no subject."""
    parts = entry["path"].split("/")
    return parts[1] if len(parts) == 3 else None


def _local(root: Path, entry: dict) -> Path:
    return root / entry["path"].removeprefix("dataset/")


def _missing(root: Path, entries: list[dict]) -> list[dict]:
    return [entry for entry in entries if not _is_right(_local(root, entry), entry)]


def _is_right(path: Path, entry: dict) -> bool:
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def _download(url: str, entry: dict) -> bytes:
    try:
        with urlopen(url, timeout=_TIMEOUT) as response:
            data = response.read(entry["bytes"] + 1)  # never more than expected
    except Exception as error:  # URLError, timeouts, http.client's own, broken proxies
        reason = error if isinstance(error, HTTPError) else getattr(error, "reason", error)
        raise UserError(
            f"cannot fetch {url} ({reason}): run again with a network, or {_MEND} of the dataset."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise UserError(
            f"{url} has SHA-256 {digest[:16]}..., not {entry['sha256'][:16]}..., and was "
            f"discarded: run again, or {_MEND} of the dataset."
        )
    return data
