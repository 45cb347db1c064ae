"""Cut square views out of a photo, as pixels in [-1,1]."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreambooth.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crops:
    """How a photo is cut into square views.

    Attributes:
        resolution: side of a view in pixels.
        num_crops: number of views of a photo. A single view is the centre, unless `random_crop`.
        random_crop: cut a single view at a random place too; several views always are.
        flip: mirror each view with probability 1/2.
        interpolation: one of Pillow's filters in lower case, such as `bilinear` or `lanczos`.
    """

    resolution: int
    num_crops: int = 1
    random_crop: bool = False
    flip: bool = False
    interpolation: str = "bilinear"


def cut_views(image: Image.Image, crops: Crops, seed: int, name: str) -> list[Tensor]:
    """Cut a photo into `crops.num_crops` views, each `[3,R,R]` float32 in [-1,1].

    The shorter side is resized to R, then a square is cut. View k depends on (seed, name, k)
    alone. A centre view equals torchvision's Resize, CenterCrop, ToTensor and Normalize(0.5, 0.5),
    which diffusers' train_dreambooth.py uses. A photo smaller than R is enlarged, with a warning.

    Raises:
        UserError: an unknown interpolation.
    """
    resized = _resize(image, crops, name)
    places = _places(resized.size, crops, seed, name)
    return [_cut(resized, crops.resolution, *place) for place in places]


def view_sizes(size: tuple[int, int], crops: Crops, seed: int, name: str) -> list[list[int]]:
    """List, for each view of a photo, what SDXL is told of it: six numbers of pixels.

    They are height and width of the photo as it was, top and left of the view in the resized (and
    mirrored) photo, height and width of the view (Podell et al. 2023, section 2.2).

    Args:
        size: width and height of the photo.
    """
    resized, side = _resized(size, crops.resolution), crops.resolution
    sizes = []
    for top, left, flip in _places(resized, crops, seed, name):
        left = resized[0] - left - side if flip else left
        sizes.append([size[1], size[0], top, left, side, side])
    return sizes


def _places(
    size: tuple[int, int], crops: Crops, seed: int, name: str
) -> list[tuple[int, int, bool]]:
    """Choose top and left of each view of a resized photo, and whether it is mirrored then."""
    spare = (size[1] - crops.resolution, size[0] - crops.resolution)
    places = []
    for k in range(crops.num_crops):
        key = hashlib.sha256(f"{seed}/{name}/{k}".encode()).digest()
        draw = random.Random(int.from_bytes(key, "big"))
        parts, coin = (draw.random(), draw.random()), draw.random()
        if crops.random_crop or crops.num_crops > 1:
            top, left = (int(part * (extra + 1)) for part, extra in zip(parts, spare, strict=True))
        else:  # the centre; half to even, as torchvision
            top, left = (int(round(extra / 2.0)) for extra in spare)
        places.append((top, left, crops.flip and coin < 0.5))
    return places


def _resized(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Scale the shorter side to R; the longer side is rounded down, as torchvision does."""
    width, height = size
    shorter = min(size)
    return int(resolution * width / shorter), int(resolution * height / shorter)


def _resize(image: Image.Image, crops: Crops, name: str) -> Image.Image:
    filters = {filter.name.lower(): filter for filter in Image.Resampling}
    if crops.interpolation not in filters:
        raise UserError(
            f"unknown interpolation {crops.interpolation!r}: choose one of {', '.join(filters)}."
        )
    width, height = image.size
    if min(width, height) < crops.resolution:
        _warn_small(name, width, height, crops.resolution)
    return image.resize(_resized(image.size, crops.resolution), filters[crops.interpolation])


@functools.cache  # one warning per photo and size in a process
def _warn_small(name: str, width: int, height: int, resolution: int) -> None:
    log.warning(
        "%s is %dx%d pixels, smaller than resolution=%d: it is enlarged and will look soft.",
        name,
        width,
        height,
        resolution,
    )


def _cut(image: Image.Image, resolution: int, top: int, left: int, flip: bool) -> Tensor:
    """Cut a square `[3,R,R]`, mirrored or not."""
    square = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous().float()
    pixels = pixels.div(255).sub(0.5).div(0.5)
    return pixels.flip(-1) if flip else pixels
