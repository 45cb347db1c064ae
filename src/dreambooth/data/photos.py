"""Read a subject's photos and their captions: from a folder of anyone's files to RGB images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from dreambooth.data.colors import to_rgb
from dreambooth.errors import UserError, reason
from dreambooth.files import cache_key
from dreambooth.packages import need
from dreambooth.png_text import hash_without_text
from dreambooth.quoting import require_utf8

HEIF_SUFFIXES = (".heic", ".heif")  # of phones; a package reads them
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", *HEIF_SUFFIXES)
# What Pillow may try, whatever the suffix says. Other formats are not safe: EPS runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
MIN_SIDE = 16  # pixels
_FIX = "a folder that holds the photos"
MAX_PIXELS = 64_000_000  # read from the header, before anything is decompressed


def is_photo(path: Path) -> bool:
    """Tell whether a path has the suffix of a photo."""
    return path.suffix.lower() in SUFFIXES


def list_photos(folder: str | Path) -> list[Path]:
    """List the photos in `folder`, sorted by name, without hidden files and sub-folders.

    Raises:
        UserError: the folder is missing or holds no photo; or a photo is no file (but a pipe or a
            device), or has a name that is not UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        is_one = folder.exists() and is_photo(folder)
        fix = f"the folder that it is in, {folder.parent}" if is_one else _FIX
        raise UserError(f"the photo folder {folder} {what}: give {fix}.")
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    photos = sorted(p for p in found if is_photo(p) and not p.is_dir())
    if not photos:
        _point_below(folder, found)
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise UserError(f"the photo folder {folder} holds no photos: put some there ({kinds}).")
    for path in photos:
        for name in (str(path), os.path.realpath(path)):  # records hold both
            require_utf8("the name of the photo", name)
        _check_kind(path)
    return photos


def own_class_images(folder: str | Path, count: int) -> list[Path]:
    """Return the first `count` images, sorted by name, of a user's own folder of class images.

    Raises:
        UserError: as `list_photos`, or the folder holds fewer than `count` images.
    """
    try:
        paths = list_photos(folder)
    except UserError as error:
        raise UserError(f"prior.images_dir: {error}") from None
    if len(paths) < count:
        raise UserError(
            f"prior.images_dir={folder} holds {len(paths)} images, fewer than "
            f"prior.num_class_images={count}: add images or lower the number."
        )
    return paths[:count]


def _point_below(folder: Path, found: Sequence[Path]) -> None:
    """Refuse a folder whose folders hold the photos, by the first of them."""
    for below in sorted(path for path in found if path.is_dir()):
        _, _, names = next(os.walk(below), ("", [], []))  # none of what cannot be read
        if any(is_photo(Path(name)) for name in names):
            raise UserError(
                f"the photo folder {folder} holds no photos, but folders with photos: give the "
                f"folder of one subject, such as {below}."
            )


def _check_kind(path: Path) -> None:
    """Refuse a pipe or a device, from which reading might never end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a pipe or a device and no file: remove it.")


def load_photo(path: str | Path) -> Image.Image:
    """Read a photo as 8-bit sRGB: rotated as its EXIF says, alpha over white, 16 bits scaled to 8.

    Raises:
        UserError: a file that is no image, is damaged, too small or too large, by name.
    """
    path = Path(path)
    too_large = UserError(
        f"{path} is larger than {MAX_PIXELS // 10**6} megapixels: "
        "reduce it, for example to 2048 pixels a side."
    )
    try:
        _check_kind(path)
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes): remove it or copy the photo again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pages of them on a damaged file; our limit is lower
            with Image.open(path, formats=_formats(path)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise too_large
                if min(width, height) < MIN_SIDE:
                    raise UserError(
                        f"{path} is {width}x{height} pixels: remove it or use a photo of "
                        f"at least {MIN_SIDE} pixels a side."
                    )
                return to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise too_large from None
    except UnidentifiedImageError:
        raise UserError(
            f"{path} is not an image ({', '.join(FORMATS)}) whatever its name says: "
            "remove it or save it again as JPEG or PNG."
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise _unreadable(path, error) from error


def _formats(path: Path) -> tuple[str, ...]:
    """List what Pillow may try on a photo; HEIC where the package that reads it is installed.

    Raises:
        UserError: HEIC without the package.
    """
    if path.suffix.lower() not in HEIF_SUFFIXES:
        return FORMATS
    need("pillow-heif", str(path), "save the photo as JPEG", module="pillow_heif")
    import pillow_heif  # pyright: ignore[reportMissingImports]

    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def load_photos(paths: Iterable[Path]) -> Iterator[Image.Image]:
    """Read photos one by one, so that only one is in memory at full size.

    Raises:
        UserError: names the first bad photo and counts the bad ones after it.
    """
    remaining = iter(paths)
    for path in remaining:
        try:
            image = load_photo(path)
        except UserError as error:
            others = sum(not _loads(other) for other in remaining)
            more = f" ({others} more of the photos cannot be used either)" if others else ""
            raise UserError(f"{str(error).removesuffix('.')}{more}.") from None
        yield image


def _loads(path: Path) -> bool:
    try:
        load_photo(path)
    except UserError:
        return False
    return True


def captions(paths: Sequence[Path], fallback: str) -> list[str]:
    """Read each photo's prompt: the text file beside it (`dog.txt` for `dog.jpg`), in one line.

    Photos without one, or with an empty one, have the prompt `fallback`.

    Raises:
        UserError: a caption that cannot be read or is not UTF-8.
    """
    return [_caption(path) or fallback for path in paths]


def _caption(path: Path) -> str:
    """Read the text beside a photo; empty if there is none."""
    file = path.with_suffix(".txt")
    if not file.is_file():
        return ""
    try:
        return " ".join(file.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError:
        raise UserError(f"the caption {file} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"the caption {file} cannot be read ({why}): remove it.") from error


def image_hash(path: str | Path) -> str:
    """SHA-256 of an image file's bytes, without the text that this program writes into a PNG.

    Raises:
        UserError: the file cannot be read.
    """
    _check_kind(Path(path))
    try:
        return hash_without_text(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def contents_hash(paths: Sequence[Path]) -> str:
    """Hash the bytes of photos and their captions, in this order: 16 hex digits.

    Raises:
        UserError: a file that cannot be read.
    """
    return cache_key(photos=[image_hash(path) for path in paths], captions=captions(paths, ""))


def _unreadable(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({getattr(error, 'strerror', None) or reason(error)}): "
        "copy it again, save it again as JPEG or PNG, or remove it."
    )
