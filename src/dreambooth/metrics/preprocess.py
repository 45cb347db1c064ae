"""Turn images into network input; preprocessing is a part of a score's id, so it has one too."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dreambooth.data.colors import to_rgb
from dreambooth.data.photos import load_photo
from dreambooth.errors import UserError
from dreambooth.png_text import hash_without_text

ImageLike = Path | str | Image.Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # [0,1] => [-1,1]
_RESAMPLE = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocess:
    """Resize with PIL (antialiased), as published scores did, then crop and normalise.

    >>> Preprocess(256, 224, "bicubic", *IMAGENET).id
    'r256c224_bicubic'

    Attributes:
        resize: length of the shorter side in pixels; without a crop, of both sides.
        crop: side of the square that is cut from the centre; None cuts nothing.
        resample: PIL's filter, one of `lanczos`, `bilinear`, `bicubic`.
        mean, std: normalise each channel, which is in [0,1] before.
    """

    resize: int
    crop: int | None
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def id(self) -> str:
        """The preprocessing's part of a score's id."""
        size = f"sq{self.resize}" if self.crop is None else f"r{self.resize}c{self.crop}"
        return f"{size}_{self.resample}"

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess an RGB image => `[3,S,S]` float32."""
        width, height = image.size
        if self.crop is None:
            width = height = self.resize
        elif width <= height:
            width, height = self.resize, int(self.resize * height / width)
        else:
            width, height = int(self.resize * width / height), self.resize
        image = image.resize((width, height), _RESAMPLE[self.resample])
        if self.crop is not None:
            left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return (pixels - mean[:, None, None]) / std[:, None, None]


def from_folder(folder: Path, fix: str) -> Preprocess:
    """Read the preprocessing from `folder/preprocessor_config.json`, transformers' format.

    Args:
        fix: what the user can do about a file that cannot be used.

    Raises:
        UserError: a file that is missing, damaged or incomplete; the message ends with `fix`.
    """
    path = folder / "preprocessor_config.json"
    try:
        config = json.loads(path.read_text())
        size = config["size"]
        edge = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        if isinstance(crop, dict):
            crop = crop["height"]
        resample = Image.Resampling(config["resample"]).name.lower()
        mean, std = ((0.0,) * 3, (1.0,) * 3)
        if config.get("do_normalize", True):
            mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} does not state size, resample, image_mean and image_std "
            f"({type(error).__name__}: {error}): {fix}."
        ) from error
    if resample not in _RESAMPLE:
        raise UserError(f"{path} asks for {resample} resampling: use {', '.join(_RESAMPLE)}.")
    return Preprocess(edge, crop, resample, mean, std)


def open_image(image: ImageLike) -> Image.Image:
    """Open an image as RGB: rotated as its EXIF says, transparency over white, 16 bits as 8.

    Raises:
        UserError: names a file that `load_photo` refuses.
    """
    if not isinstance(image, Image.Image):
        return load_photo(image)
    return to_rgb(ImageOps.exif_transpose(image))


def image_digest(image: ImageLike) -> str:
    """Hash a file's bytes, or the pixels of an image in memory: SHA-256, 64 hex digits.

    The text that this program writes into a PNG does not count.

    Raises:
        UserError: a file that cannot be read.
    """
    if isinstance(image, Image.Image):
        rgb = open_image(image)
        return hashlib.sha256(f"RGB {rgb.size} ".encode() + rgb.tobytes()).hexdigest()
    try:
        return hash_without_text(image)
    except OSError as error:
        raise UserError(
            f"{image} cannot be opened: correct the path or generate the image again."
        ) from error
