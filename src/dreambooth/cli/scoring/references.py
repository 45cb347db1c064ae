"""What an evaluation compares with: photos, their kind, and the networks that score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.data.photos import list_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.networks import Encoders, load_encoders
from dreambooth.evaluation.record import TRAINING, TRAINING_AND_OTHER
from dreambooth.files import file_hash
from dreambooth.sampling.draw import torch_device


def references_of(
    cfg: DictConfig, own: list[Path] | None, trained_on: list[Path]
) -> tuple[list[Path], str, str]:
    """The photos to compare with, their kind, and a sentence on them.

    A training photo is one whose file has the same bytes as one that the run was trained on. `own`
    are the photos of the subject; None where none are known. `trained_on` is empty where there is
    no run.

    Raises:
        UserError: no photos are known, or one is not there any more.
    """
    if isinstance(cfg.photos, str):
        photos = list_photos(cfg.photos)
        what, count = _kind(photos, trained_on)
        return photos, what, f"{what} in {cfg.photos} ({count})"
    if own is None:
        raise UserError("photos=DIR is missing: give the folder of the subject's photos.")
    lost = [path for path in own if not path.is_file()]
    if lost:
        raise UserError(
            f"the photo {lost[0]} is not there any more: pass photos=DIR with the subject's photos."
        )
    if not trained_on:
        return own, "photos", "photos"
    what = TRAINING if own == trained_on else TRAINING_AND_OTHER
    return own, what, what


def _kind(photos: list[Path], trained_on: list[Path]) -> tuple[str, str]:
    """Whether a model saw the photos, as a kind and as a count."""
    known = {file_hash(path) for path in trained_on if path.is_file()}
    given = [file_hash(path) for path in photos]
    seen = sum(digest in known for digest in given)
    count = f"{seen} of {len(given)} are training photos"
    if seen == len(given):
        return (TRAINING if set(given) == known else "some training photos"), count
    if seen:
        return TRAINING_AND_OTHER, count
    if not trained_on or not all(path.is_file() for path in trained_on):
        return "photos", "whether a model trained on them is not known"
    return "other photos", count


def encoders_of(
    cfg: DictConfig, metrics: list[str] | tuple[str, ...], block: Mapping[str, Any] | None = None
) -> Encoders:
    """Load the networks that `block` names; the command's own `evaluation` without it."""
    # not resolved: `encoders` may refer to a model that this command does not have
    own: Any = OmegaConf.to_container(cfg.evaluation, resolve=False)
    named = block or own
    device = torch_device(cfg.device)
    return load_encoders(named["encoders"], metrics, device, named["encoders_dir"], cfg.cache_dir)
