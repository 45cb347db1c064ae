"""Encode photos with the VAE once, before training, and cache what it gives on the disk.

photos => crops => posterior `mean, logvar [M,C,h,w]`
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dreambooth.data.crops import Crops, cut_views, view_sizes
from dreambooth.data.photos import image_hash, load_photos
from dreambooth.files import cache_key
from dreambooth.locks import locked
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import alone
from dreambooth.tensors import Damaged, read_tensors, write_tensors

BATCH_SIZE = 8  # views that the VAE encodes at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Encoded views of instance or class images: latents, a prompt and a file name for each view.

    Attributes:
        mean, logvar: the VAE's posterior, `[M,C,h,w]` float32, not scaled for the U-Net.
        prompts, names: M each.
        sizes: what SDXL is told of each view, `[M,6]` int64; see `crops.view_sizes`.
        key: changes with anything that the latents depend on.
    """

    mean: Tensor
    logvar: Tensor
    prompts: tuple[str, ...]
    names: tuple[str, ...]
    sizes: Tensor
    key: str = ""

    @cached_property
    def content(self) -> str:
        """Hash the latents: `key` does not tell how a class image was rounded when it was drawn."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.logvar):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.prompts)


def encode_examples(
    model: BaseModel,
    paths: Sequence[Path],
    prompts: Sequence[str],
    crops: Crops,
    seed: int,
    cache_dir: str | Path,
    made_from: str | None = None,
) -> Examples:
    """Encode every view of every photo with the frozen VAE, or read them from the latent cache.

    Args:
        model: its VAE should be in float32; it runs on the device that it is on.
        paths, prompts: the photos, and one prompt for each.
        seed: where the views are cut; the centre alone does not depend on it.
        made_from: a key of what images of these names were drawn from. They are known by it, since
            one that is drawn again in another batch may differ in its last bits.

    Raises:
        UserError: a photo that cannot be read, by name.
    """
    is_random = crops.num_crops > 1 or crops.random_crop or crops.flip
    key = cache_key(
        model=model.weights_hash(),
        photos=[image_hash(path) for path in paths] if made_from is None else made_from,
        names=[path.name for path in paths],
        seed=seed if is_random else None,
        **asdict(crops),
    )
    file = Path(cache_dir) / "latents" / f"{key}.safetensors"
    latents = _read(file)  # without the lock, so that a read-only cache works too
    if latents is None:
        with locked(file):
            latents = _read(file)
            if latents is None:
                sizes: list[list[int]] = []
                latents = _encode(model, _views(paths, crops, seed, sizes))
                latents["sizes"] = torch.tensor(sizes)
                write_tensors(file, latents, {"key": key})
    return Examples(
        latents["mean"],
        latents["logvar"],
        tuple(prompt for prompt in prompts for _ in range(crops.num_crops)),
        tuple(path.name for path in paths for _ in range(crops.num_crops)),
        latents["sizes"],
        key,
    )


def _views(
    paths: Sequence[Path], crops: Crops, seed: int, sizes: list[list[int]]
) -> Iterator[Tensor]:
    """Cut every view, one photo in memory at a time, and append what is told of it to `sizes`."""
    for path, image in zip(paths, load_photos(paths), strict=True):
        sizes += view_sizes(image.size, crops, seed, path.name)
        yield from cut_views(image, crops, seed, path.name)


def _read(file: Path) -> dict[str, Tensor] | None:
    """Read cached latents; None if there are none, of an earlier version, or damaged."""
    try:
        latents, metadata = read_tensors(file)
        if metadata.get("key") != file.stem:
            raise Damaged("it holds the latents of other photos")
        return latents if "sizes" in latents else None
    except FileNotFoundError:
        return None
    except Damaged as error:
        log.warning("%s is damaged (%s): encoding the photos again.", file, error)
        return None


@torch.no_grad()
def _encode(model: BaseModel, views: Iterator[Tensor]) -> dict[str, Tensor]:
    """Encode views `[3,R,R]` in batches => `mean, logvar [M,C,h,w]` float32 on the CPU."""
    means, logvars = [], []
    with alone(model, model.autoencoder):
        while part := list(itertools.islice(views, BATCH_SIZE)):
            mean, logvar = model.encode(torch.stack(part).to(model.device))
            means.append(mean.float().cpu())
            logvars.append(logvar.float().cpu())
    # the posterior's halves are views of one tensor, which safetensors would refuse
    return {"mean": torch.cat(means).contiguous(), "logvar": torch.cat(logvars).contiguous()}
