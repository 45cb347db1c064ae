"""Refuse photos that no run could use, before anything else is done or said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambooth.data.photos import captions, load_photos, own_class_images
from dreambooth.data.subjects import photos_here, require_so_many
from dreambooth.errors import UserError

Plain = Mapping[str, Any]


def refuse_bad_photos(config: Plain) -> None:
    """Read a run's photos and captions, where they are on this machine; list its class images.

    Raises:
        UserError: no photos, fewer than `photos.use`, one that cannot be read, by name, or fewer
            class images in a folder of the user's own than are asked for.
    """
    prior = config["prior"]
    if config["ppl"] and config["method"]["uses_prior"] and prior["images_dir"] is not None:
        own_class_images(prior["images_dir"], prior["num_class_images"])
    paths = _listed(config)
    for _ in load_photos(paths):
        pass
    captions(paths, "")


def refuse_without_photos(configs: Sequence[Plain]) -> None:
    """Refuse runs of which none has photos; among others, one without fails by itself.

    Raises:
        UserError: what the first run lacks.
    """
    first: UserError | None = None
    for config in configs:
        try:
            _listed(config)
        except UserError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def _listed(config: Plain) -> list[Path]:
    subject, photos = config["subject"], config["photos"]
    is_of_world = "identity" in subject  # rendered; no dataset holds it
    rendered = photos["rendered"] if config["model"]["rendered_subjects"] else None
    root = None if is_of_world else photos["root"]
    places = subject["photos"], root, rendered
    paths = photos_here(subject["name"], subject["class_noun"], *places)
    if paths:
        require_so_many(photos["use"], len(paths), subject["name"])
    elif rendered is not None:
        require_so_many(photos["use"], rendered, subject["name"])
    return paths
