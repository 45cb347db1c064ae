"""Class images for prior preservation: made once by the frozen model, cached, topped up."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from dreambooth.data.photos import list_photos
from dreambooth.errors import UserError
from dreambooth.files import atomic, cache_key, file_hash, locked, write_json

log = logging.getLogger(__name__)

Generate = Callable[[Sequence[int]], list[Image.Image]]
"""`seeds => images`, one image a seed, whatever else is in the batch."""


def own_class_images(folder: str | Path, count: int) -> list[Path]:
    """The first `count` images, sorted by name, of a user's own folder.

    Raises:
        UserError: the folder holds fewer than `count` images.
    """
    paths = list_photos(folder)
    if len(paths) < count:
        raise UserError(
            f"prior.images_dir={folder} holds {len(paths)} images, fewer than "
            f"prior.num_class_images={count}: add images or lower the number."
        )
    return paths[:count]


def class_images(
    generate: Generate, facts: dict, count: int, seed: int, batch_size: int, cache_dir: str | Path
) -> list[Path]:
    """`count` PNGs in the cache folder that belongs to `facts`; only missing ones are made.

    Image i is generated from seed `seed + i` alone, so more can be asked for later, in any batch
    size. `manifest.json` records the facts and each image's seed and SHA-256; an image that does
    not match its record is made again.

    Args:
        generate: draws the images of a list of seeds.
        facts: everything the images depend on (model, prompt, sampler, steps, ...), JSON values.
    """
    folder = Path(cache_dir) / "class_images" / cache_key(**facts, seed=seed)
    manifest = folder / "manifest.json"
    with locked(folder):
        record = _read(manifest)
        missing = [i for i in range(count) if not _is_whole(folder, i, record)]
        if missing:
            log.info("Generating %d class images of %r", len(missing), facts.get("prompt"))
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            for i, image in zip(part, generate([seed + i for i in part]), strict=True):
                with atomic(folder / _name(i)) as temporary:
                    image.save(temporary, format="PNG")
                record[_name(i)] = {"seed": seed + i, "sha256": file_hash(folder / _name(i))}
            write_json(manifest, {"facts": {**facts, "seed": seed}, "images": record})
    return [folder / _name(i) for i in range(count)]


def _name(index: int) -> str:
    return f"{index:05d}.png"


def _read(manifest: Path) -> dict:
    """The images' records; empty where there is no readable manifest."""
    try:
        return dict(json.loads(manifest.read_text())["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_whole(folder: Path, index: int, record: dict) -> bool:
    path, entry = folder / _name(index), record.get(_name(index))
    return entry is not None and path.exists() and file_hash(path) == entry["sha256"]
