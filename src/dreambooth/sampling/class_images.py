"""Class images for prior preservation: drawn once by the frozen model, cached, topped up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth.data.photos import load_photos
from dreambooth.files import cache_key, write_json
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.draw import draw
from dreambooth.sampling.manifest import Item
from dreambooth.sampling.provenance import Provenance, Weights, network_dtypes
from dreambooth.sampling.spec import Sampling
from dreambooth.sampling.store import Draw, ImageStore, Text

log = logging.getLogger(__name__)

FLAT = 4  # of 255: what compression or rounding makes of a single colour


@dataclass(frozen=True)
class ClassImages:
    """Which class images: `count` images of `prompt`, image i from seed `seed + i` alone."""

    prompt: str
    count: int
    seed: int
    batch_size: int

    def drawn(
        self,
        draw: Draw,
        facts: Mapping[str, Any],
        cache_dir: str | Path,
        text: Text | None = None,
    ) -> list[Path]:
        """Return their PNGs in the cache folder that belongs to `facts`; draw the missing ones.

        More can be asked for later, in any batch size. `facts.json` names what the images depend
        on.

        Args:
            facts: everything that the images depend on beside prompt and seed (model, sampler,
                steps, ...), JSON values.
            text: what each PNG says of itself. Cached latents do not depend on it.
        """
        facts = {**facts, "prompt": self.prompt, "seed": self.seed}
        folder = Path(cache_dir) / "class_images" / cache_key(**facts)
        items = [
            Item("class", f"{i:05d}.png", self.prompt, self.prompt, self.seed + i)
            for i in range(self.count)
        ]
        paths, store = [folder / item.file for item in items], ImageStore(folder, facts, text)
        missing = store.missing(items)
        if not missing:  # without a lock, so that a read-only cache works too
            return paths
        log.info("Drawing %d class images of %r", len(missing), self.prompt)
        if damaged := sum((folder / item.file).exists() for item in missing):
            log.warning("%d of them in %s are damaged, and drawn again.", damaged, folder)
        if not (folder / "facts.json").exists():
            write_json(folder / "facts.json", facts)
        store.fill(draw, items, self.batch_size, keep_others=True, title="Class images")
        return paths


def base_images(
    wanted: ClassImages,
    load: Callable[[], BaseModel],
    weights: Weights,
    sampling: Sampling,
    cache_dir: str | Path,
    cast: Mapping[str, str] | None = None,
) -> list[Path]:
    """Return class images of a base model from the cache; draw the missing ones.

    Args:
        load: gives the model; it is called only where an image is missing.
        weights: the base model's, named.
        cast: the dtypes of those of its networks that are not in float32.
    """
    facts = {"model": weights.hashes["base"], **sampling.facts}
    if cast:
        facts["cast"] = dict(cast)
    return wanted.drawn(
        lambda prompts, seeds: draw(load(), prompts, seeds, sampling),
        facts,
        cache_dir,
        lambda prompt, seed: Provenance(weights, sampling, tuple(network_dtypes(load()))).text(
            prompt, seed
        ),
    )


def describe_faults(paths: Sequence[Path]) -> str | None:
    """Count black, blank and repeated images in one sentence; None where there are none.

    Black is what a safety checker returns; blank is any other single colour.

    Raises:
        UserError: an image that cannot be read, by name.
    """
    counts, seen = {"black": 0, "blank": 0, "copies of others": 0}, set()
    for image in load_photos(paths):
        pixels = np.asarray(image).reshape(-1, 3)
        key = hash((image.size, pixels.tobytes()))
        if pixels.max() <= FLAT:
            counts["black"] += 1
        elif (np.ptp(pixels, axis=0) <= FLAT).all():
            counts["blank"] += 1
        elif key in seen:
            counts["copies of others"] += 1
        seen.add(key)
    found = [f"{count} {kind}" for kind, count in counts.items() if count]
    if not found:
        return None
    return f"of {len(paths)} class images, {', '.join(found)}: the prior loss learns these too."
