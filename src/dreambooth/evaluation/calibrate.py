"""Real photos against themselves under every variant: the one paper number that needs no training.

Ruiz et al. 2023, table 1: DINO 0.774 and CLIP-I 0.885 for real images. The authors do not state
their encoder, preprocessing and pairing; the variant that gives these numbers is likely theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dreambooth.data.dataset import fetch_dataset
from dreambooth.data.photos import list_photos
from dreambooth.errors import UserError
from dreambooth.files import write_csv
from dreambooth.metrics.aggregate import bootstrap_interval, macro, mean
from dreambooth.metrics.encoders import ENCODERS, load_encoder
from dreambooth.metrics.features import Encoder
from dreambooth.metrics.fidelity import real_scores
from dreambooth.metrics.variants import clip_i_id, dino_id, real_ref_id

PAPER = {"dino": 0.774, "clip": 0.885}
ENCODER_NAMES = tuple(name for name, source in ENCODERS.items() if source.repo is not None)

Photos = Mapping[str, Sequence[Path]]
"""Each subject's photos by its name."""


def dataset_photos(root: str | None, cache_dir: str | Path) -> dict[str, list[Path]]:
    """List each subject's photos: the sub-folders of `root`, or the dataset, which is fetched once.

    Raises:
        UserError: no such folder, or no sub-folder with photos.
    """
    folder = fetch_dataset(Path(cache_dir) / "dreambooth") if root is None else Path(root)
    if not folder.is_dir():
        raise UserError(f"photos.root={root} is not a folder: give the dataset's folder.")
    subjects = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    photos = {path.name: list_photos(path) for path in subjects}
    if not photos:
        raise UserError(f"photos.root={root} has no sub-folder: give one folder per subject.")
    return photos


def calibrate(
    photos: Photos,
    device: str,
    encoders_dir: str | None,
    cache_dir: str | Path,
    output: Path,
) -> list[dict[str, Any]]:
    """Score every variant whose weights are available, and write `calibration.csv`.

    The scores are printed beside the paper's; the other variants are named with the reason.

    Raises:
        UserError: a subject with one photo, or no weights are available at all.
    """
    for name, paths in photos.items():
        if len(paths) < 2:
            raise UserError(f"{paths[0].parent} holds one photo of {name}: two are compared.")
    rows, missing = [], {}
    for name in ENCODER_NAMES:
        try:
            encoder = load_encoder(
                name,
                device=device,
                encoders_dir=encoders_dir,
                cache_dir=Path(cache_dir) / "features",
            )
        except UserError as error:
            missing[name] = str(error)
            continue
        rows += [real_row(name, encoder, photos, include_self) for include_self in (False, True)]
    if not rows:
        name, why = next(iter(missing.items()))
        raise UserError(f"none of {', '.join(missing)} is available; {name}: {why}")
    write_csv(output / "calibration.csv", rows)
    _print(rows, missing, photos)
    return rows


def real_row(name: str, encoder: Encoder, photos: Photos, include_self: bool) -> dict[str, Any]:
    """Score photos against photos: one variant's mean over subjects, and its interval over them."""
    kind = ENCODERS[name].kind
    means = {
        subject: mean(real_scores(encoder.images(paths), include_self=include_self))
        for subject, paths in photos.items()
    }
    score_id = dino_id(encoder.variant) if kind == "dino" else clip_i_id(encoder.variant)
    interval = bootstrap_interval(list(means.values()), list(means), seed=0) or (None, None)
    value = macro(means)
    return {
        "encoder": name,
        "variant": real_ref_id(score_id, include_self=include_self),
        "mean": value,
        "low_95": interval[0],
        "high_95": interval[1],
        "paper": PAPER[kind],
        "difference": value - PAPER[kind],
        "subjects": len(photos),
        "photos": sum(map(len, photos.values())),
    }


def _print(rows: list[dict[str, Any]], missing: dict[str, str], photos: Photos) -> None:
    count = sum(map(len, photos.values()))
    table = Table(
        title=f"real images: {count} photos of {len(photos)} subjects", title_justify="left"
    )
    for name in ("encoder", "self-pairs", "real", "paper", "difference"):
        table.add_column(name, justify="left" if name == "encoder" else "right", no_wrap=True)
    for row in rows:
        pairs = "with" if row["variant"].endswith("include_self") else "without"
        numbers = f"{row['mean']:.3f}", f"{row['paper']:.3f}", f"{row['difference']:+.3f}"
        table.add_row(row["encoder"], pairs, *numbers)
    console = Console()
    console.print(table)
    for kind, value in PAPER.items():
        alike = [row for row in rows if row["paper"] == value]
        if alike:
            nearest = min(alike, key=lambda row: abs(row["difference"]))
            console.print(f"Nearest to the paper's {value} ({kind}): {nearest['variant']}")
    for name, why in missing.items():
        console.print(f"Left out: {name}. {why}", style="dim", highlight=False, markup=False)
