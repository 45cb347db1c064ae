"""Find a subject's photos; download the DreamBooth dataset once, from its own repository."""

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

from dreambooth.data.photos import is_photo, list_photos
from dreambooth.errors import UserError
from dreambooth.files import atomic, file_hash
from dreambooth.locks import locked
from dreambooth.pocket.embedded import rendered_photos, require_class
from dreambooth.scratch import remove_leftovers

PHOTOS_VARIABLE = "DREAMBOOTH_PHOTOS"
_FIX = f"point photos.root=DIR or the environment variable {PHOTOS_VARIABLE} at a copy"
_OWN_PHOTOS = "photos of your own: subject.photos=DIR"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TIMEOUT = 60  # seconds without a byte

log = logging.getLogger(__name__)


def check_name(name: str) -> str:
    """Return `name` if it is safe in a path: 1 to 64 of A-Z a-z 0-9 . _ - and not only dots.

    Raises:
        UserError: any other name.
    """
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise UserError(
            f"the subject name {name[:80]!r} is not allowed: use 1 to 64 letters, digits, '.', '_' "
            "or '-'."
        )
    return name


def suggest(word: str, choices: Iterable[str], what: str = "subject") -> str:
    """Write the error message for a word that is none of `choices`: name the nearest, or all."""
    choices = sorted(choices)
    near = difflib.get_close_matches(word.lower(), choices, n=1)
    fix = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(choices)}."
    return f"unknown {what} {word[:80]!r}: {fix}"


def find_photos(
    name: str,
    class_noun: str,
    photos_dir: str | None,
    root: str | None,
    rendered: int | None,
    cache_dir: str | Path,
) -> list[Path]:
    """List the subject's photos: in a given folder, rendered, or those of the dataset.

    Args:
        photos_dir, root: a folder of photos, or of one sub-folder per subject.
        rendered: without both, how many photos of the embedded world to render; None downloads
            the dataset's instead.

    Raises:
        UserError: an unsafe or unknown name, a class that the embedded world lacks, a folder
            without photos, or a failed download.
    """
    if photos_dir is None and root is None and rendered is not None:
        return list_photos(rendered_photos(class_noun, check_name(name), rendered, cache_dir))
    return list_photos(subject_folder(name, photos_dir, root, cache_dir))


def photos_here(
    name: str, class_noun: str, photos_dir: str | None, root: str | None, rendered: int | None
) -> list[Path]:
    """List the photos of `find_photos` that are on this machine; nothing is rendered or downloaded.

    Returns:
        the photos in a folder that was given; none of others.

    Raises:
        UserError: as `find_photos`, before any work, but for a failed download.
    """
    check_name(name)
    if photos_dir is not None or root is not None:
        return list_photos(subject_folder(name, photos_dir, root, ""))
    if rendered is not None:
        require_class(class_noun)
    else:
        _require_known(name)
    return []


def require_so_many(use: int | None, count: int, name: str) -> None:
    """Refuse to train on the first `use` of `count` photos where there are fewer.

    Raises:
        UserError: says how many there are.
    """
    if use is not None and use > count:
        raise UserError(
            f"photos.use={use} is more than the {count} photo{'s' * (count != 1)} of {name}: "
            "use fewer, or null for all."
        )


def gallery_photos(
    names: Iterable[str],
    class_noun: str,
    photos_dir: str | None,
    root: str | None,
    rendered: int | None,
    cache_dir: str | Path,
) -> dict[str, list[Path]]:
    """List the photos of other subjects of a class, where those of the subject come from.

    A subject with a folder of its own and no dataset beside it has no others.

    Args:
        names: the other subjects' names.
        photos_dir, root, rendered: of the subject, as in `find_photos`.

    Returns:
        the photos by name; empty if a download fails.
    """
    if root is None and photos_dir is not None:
        return {}
    if root is not None:
        names = [name for name in names if (Path(root).expanduser() / name).is_dir()]
    try:
        return {n: find_photos(n, class_noun, None, root, rendered, cache_dir) for n in names}
    except UserError as error:
        log.warning("The scores have no gallery of other subjects: %s", error)
        return {}


def subject_folder(
    name: str, photos_dir: str | None, root: str | None, cache_dir: str | Path
) -> Path:
    """Return the folder of the subject's photos: `photos_dir`, `root`/name, or the dataset's.

    The dataset's photos are downloaded into `cache_dir`/dreambooth, once.

    Raises:
        UserError: an unsafe or unknown name, and as `fetch_dataset`.
    """
    check_name(name)
    if photos_dir is not None:
        return Path(photos_dir).expanduser()
    if root is not None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise UserError(f"photos.root={root} is not a folder: {_FIX} of the dataset.")
        if (folder / name).is_dir():
            return folder / name
        names = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if not names and any(map(is_photo, folder.iterdir())):
            raise UserError(
                f"photos.root={root} holds photos, and not a folder for each subject: give "
                f"subject.photos={root}."
            )
        hint = suggest(name, names) if names else "it holds no sub-folder at all."
        raise UserError(f"in photos.root={root}: {hint} ({_OWN_PHOTOS})")
    _require_known(name)
    return fetch_dataset(Path(cache_dir) / "dreambooth", [name]) / name


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
                "downloading %d files (%.1f MB) of the DreamBooth dataset from %s into %s",
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
            f"free some space, choose another folder, or {_FIX}."
        ) from error
    return root


def _require_known(name: str) -> None:
    if name not in dataset_subjects():
        raise UserError(f"{suggest(name, dataset_subjects())} ({_OWN_PHOTOS})")


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
            f"cannot download {url} ({reason}): run again with a network, or {_FIX} of the dataset."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry["sha256"]:
        raise UserError(
            f"{url} has SHA-256 {digest[:16]}..., not {entry['sha256'][:16]}..., and was "
            f"discarded: run again, or {_FIX} of the dataset."
        )
    return data
