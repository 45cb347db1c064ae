"""A subject's photos: from a folder of anyone's files to square pixels in [-1,1]."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import random
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.files import file_hash

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# What Pillow may try, whatever the suffix says: other readers (EPS runs Ghostscript) stay shut.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MIN_SIDE = 16  # pixels
MAX_PIXELS = 64_000_000  # read from the header, before anything is decompressed

log = logging.getLogger(__name__)


def list_photos(folder: str | Path) -> list[Path]:
    """The photos right in `folder`, sorted by name; hidden files and sub-folders are skipped.

    Raises UserError when the folder is missing or holds no photo.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"the photo folder {folder} {what}: give a folder that holds the photos.")
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    photos = sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not photos:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise UserError(f"the photo folder {folder} holds no photos: put some there ({kinds}).")
    return photos


def load_photo(path: str | Path) -> Image.Image:
    """The photo as 8-bit sRGB, turned as its EXIF says, alpha over white, 16 bits scaled to 8.

    Raises UserError naming the file when it is no image, damaged, too small or too large.
    """
    path = Path(path)
    large = UserError(
        f"{path} is larger than {MAX_PIXELS // 10**6} megapixels: "
        "reduce it, for example to 2048 pixels a side."
    )
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes): remove it or copy the photo again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our cap is lower
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise large
                if min(width, height) < MIN_SIDE:
                    raise UserError(
                        f"{path} is {width}x{height} pixels: remove it or use a photo of "
                        f"at least {MIN_SIDE} pixels a side."
                    )
                return to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise large from None
    except UnidentifiedImageError:
        raise UserError(
            f"{path} is not an image ({', '.join(FORMATS)}) whatever its name says: "
            "remove it or save it again as JPEG or PNG."
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise _unreadable(path, error) from error


def load_photos(paths: Iterable[Path]) -> Iterator[Image.Image]:
    """Loads the photos one by one, so that only one is held decoded at full size.

    Raises UserError naming the first bad photo and counting the other bad ones after it.
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


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit sRGB: alpha over white, 16 bits scaled to 8.

    Raises ValueError for samples of no known range.
    """
    if image.mode == "F":
        raise ValueError("floating-point samples have no fixed range")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("more than 16 bits a sample")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _to_srgb(image).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours of another profile (a phone's Display P3, a printer's CMYK) as sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return image
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, own, srgb, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one of another colour space
        return image


def to_pixels(
    image: Image.Image,
    resolution: int,
    offset: tuple[float, float] | None = None,
    flip: bool = False,
    interpolation: str = "bilinear",
    name: str = "a photo",
) -> Tensor:
    """The photo as pixels [3,R,R] float32 in [-1,1]: shorter side resized to R, then a square cut.

    `offset` places the cut: (down, across), each in [0,1) of the places there are; None cuts the
    centre. Equal to torchvision's Resize, CenterCrop, ToTensor, Normalize(0.5, 0.5), which
    diffusers' train_dreambooth.py uses. A photo smaller than R is enlarged, with a warning.
    Raises UserError for an unknown interpolation.
    """
    resized = _resize(image, resolution, interpolation, name)
    return _cut(resized, resolution, offset, flip)


def crops(
    image: Image.Image,
    resolution: int,
    num_crops: int,
    random_crop: bool,
    flip: bool,
    seed: int,
    name: str,
    interpolation: str = "bilinear",
) -> list[Tensor]:
    """`num_crops` views of a photo, each pixels [3,R,R]; view k depends on (seed, name, k) alone.

    One view without `random_crop` is the centre; otherwise every view is cut at its own place (on
    a square photo there is only one). `flip` mirrors each view with probability one half.
    """
    resized = _resize(image, resolution, interpolation, name)
    views = []
    for k in range(num_crops):
        key = hashlib.sha256(f"{seed}/{name}/{k}".encode()).digest()
        draw = random.Random(int.from_bytes(key, "big"))
        down, across, coin = draw.random(), draw.random(), draw.random()
        offset = (down, across) if random_crop or num_crops > 1 else None
        views.append(_cut(resized, resolution, offset, flip and coin < 0.5))
    return views


def _resize(image: Image.Image, resolution: int, interpolation: str, name: str) -> Image.Image:
    """Shorter side to `resolution`; the longer is rounded down, as torchvision rounds."""
    filters = {filter.name.lower(): filter for filter in Image.Resampling}
    if interpolation not in filters:
        raise UserError(
            f"unknown interpolation {interpolation!r}: choose one of {', '.join(filters)}."
        )
    width, height = image.size
    shorter = min(width, height)
    if shorter < resolution:
        _warn_small(name, width, height, resolution)
    size = (int(resolution * width / shorter), int(resolution * height / shorter))
    return image.resize(size, filters[interpolation])


@functools.cache  # once a photo and size in a process
def _warn_small(name: str, width: int, height: int, resolution: int) -> None:
    log.warning(
        "%s is %dx%d pixels, smaller than resolution=%d: it is enlarged and will look soft.",
        name,
        width,
        height,
        resolution,
    )


def _cut(
    image: Image.Image, resolution: int, offset: tuple[float, float] | None, flip: bool
) -> Tensor:
    spare = (image.height - resolution, image.width - resolution)
    if offset is None:
        top, left = (int(round(extra / 2.0)) for extra in spare)  # half to even, as torchvision
    else:
        top, left = (int(part * (extra + 1)) for part, extra in zip(offset, spare, strict=True))
    square = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous().float()
    pixels = pixels.div(255).sub(0.5).div(0.5)
    return pixels.flip(-1) if flip else pixels


def caption(path: str | Path, fallback: str) -> str:
    """The text of the `.txt` beside the photo, in one line; `fallback` without one or any text.

    Raises UserError when the text cannot be read or is not UTF-8.
    """
    text_file = Path(path).with_suffix(".txt")
    if not text_file.is_file():
        return fallback
    try:
        text = text_file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"the caption {text_file} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the caption {text_file} cannot be read ({reason}): remove it.") from error
    return " ".join(text.split()) or fallback


def image_hash(path: str | Path) -> str:
    """SHA-256 of the file's bytes, 64 hex digits. Raises UserError when it cannot be read."""
    try:
        return file_hash(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): "
        "copy it again, save it again as JPEG or PNG, or remove it."
    )
