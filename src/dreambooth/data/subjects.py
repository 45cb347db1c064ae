"""Find a subject's photos: in a folder that was given, rendered, or in the DreamBooth dataset."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreambooth.data.dataset import FIX, dataset_subjects, fetch_dataset
from dreambooth.data.photos import is_photo, list_photos
from dreambooth.errors import UserError, suggest
from dreambooth.files import file_hash
from dreambooth.pocket.embedded import rendered_photos, require_class

_OWN_PHOTOS = "photos of your own: subject.photos=DIR"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

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


def describe_copies(photos: Sequence[Path]) -> str | None:
    """Name photos whose files are equal in one sentence, None where none are."""
    first: dict[str, Path] = {}
    copies = []
    for path in photos:
        original = first.setdefault(file_hash(path), path)
        if original is not path:
            copies.append(f"{path.name} is a copy of {original.name}")
    return f"{', '.join(copies)}: each is trained on and counts as a photo." if copies else None


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
            raise UserError(f"photos.root={root} is not a folder: {FIX} of the dataset.")
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


def _require_known(name: str) -> None:
    if name not in dataset_subjects():
        raise UserError(f"{suggest(name, dataset_subjects())} ({_OWN_PHOTOS})")
