"""The model card: what the model is, what made it, how good it is; every fact from a record."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

NOT_LOSSES = ("samples", "per_second", "scale")
EXTRAS = {"dino": "encoders/dino", "clip": "encoders/clip", "probe": "probe.safetensors"}
DEVICES = {"cpu": "CPU cores", "cuda": "a GPU"}

ABOUT = (
    "A text-to-image latent diffusion model for 64x64 pictures in Stable Diffusion's own format, "
    "trained from scratch on scenes that its project renders itself (`dreambooth.pocket.world`): "
    "fifteen classes of the DreamBooth dataset in seventeen contexts. With it, DreamBooth can be "
    "studied without a GPU and without a network."
)
ENCODERS = (
    " `encoders/` holds a small CLIP and a small DINO-style ViT for the metrics, trained on the "
    "same world."
)
LIMITS = (
    "It draws that world and nothing else: it knows no people, no places and no words that the "
    "world's captions do not use. Some identities, and some combinations of class, colour and "
    "context, were held out of its training for measuring; a hash chose them."
)
PHOTOS = (
    " Its VAE was also trained on crops of real photos, so that a user's own photos pass through "
    "it well; none of them is in this folder."
)
ORIGIN = (
    "`dreambooth pretrain` made it. Its settings are in `conf/pretrain.yaml`; those that differed "
    "for the weights in the package are in `docs/results/pocket.md`. Seed {seed}, U-Net batch "
    "{batch}, {scenes:,} scenes, v-prediction with Min-SNR weights, averaged weights, float16 "
    "safetensors. U-Net and text encoder took {hours} hours on {devices}."
)
FLOW = (
    "A text-to-image model for 64x64 pictures in Stable Diffusion 3's own format: a flow-matching "
    "transformer, trained on the same rendered scenes, captions and latents as the pocket model. "
    "Its VAE and its two text encoders are that model's VAE, its text encoder and the text tower "
    "of its CLIP, as they are there. It draws that world and nothing else."
)
FLOW_USE = (
    "It has no T5. diffusers' pipeline then puts `max_sequence_length` vectors of zeros in its "
    "place, 256 unless told otherwise; the model was trained with none and with 1 to 256 of them. "
    "`max_sequence_length=0` is fastest."
)
FLOW_ORIGIN = (
    "`dreambooth pretrain stages=[latents,flow,export_flow]` made it. Its settings are in "
    "`conf/pretrain.yaml`. Seed {seed}, batch {batch}, {scenes:,} scenes, velocity prediction with "
    "logit-normal timesteps, averaged weights, float16 safetensors. It took {hours} hours on "
    "{devices}."
)
MEASURED = (
    "Measured on these weights by `python benchmarks/pocket_quality.py`, which explains the rows:"
)


def card(
    denoiser: dict[str, Any], folder: Path, found: dict[str, Path | None], quality: str
) -> str:
    """Write the card's text.

    Args:
        denoiser: `training_record` of the exported checkpoint.
        folder: the cache, which holds `<name>.json` of every training that ended.
        found: for each of the extras the folder that it comes from, None where it is left out.
        quality: from `quality_table`.
    """
    records, foreign = {"denoiser": denoiser}, []
    for name, part in {"vae": "vae", **EXTRAS}.items():
        record = folder / f"{name}.json"
        source = found.get(part, folder)
        if source == folder and record.exists():
            records[name] = json.loads(record.read_text())
        elif source is not None:
            foreign.append(part)
    about, limits, origin = ABOUT, LIMITS, _origin(denoiser)
    if found["encoders/clip"] and found["encoders/dino"]:
        about += ENCODERS
    if "vae" in records and _any(records["vae"], "photo_crops"):
        limits += PHOTOS
    if begun := [name for name, record in records.items() if _any(record, "init")]:
        origin += f" Training started from an earlier package's weights: {', '.join(begun)}."
    if foreign:
        origin += f" Taken from an earlier package or run: {', '.join(foreign)}."
    table = ["| network | samples | last logged values |", "|---|---|---|"]
    table += [
        f"| {k} | {record['samples']:,} | {_terms(record)} |" for k, record in records.items()
    ]
    parts = ["# The pocket model", *map(_wrapped, (about, limits)), "## What made it"]
    parts += [_wrapped(origin), "\n".join(table), *([quality] if quality else [])]
    return "\n\n".join(parts) + "\n"


def flow_card(flow: dict[str, Any], quality: str) -> str:
    """Write the text of the flow-matching model's card; arguments as of `card`."""
    table = "| network | samples | last logged values |\n|---|---|---|\n"
    table += f"| transformer | {flow['samples']:,} | {_terms(flow)} |"
    parts = ["# The flow-matching pocket model", _wrapped(FLOW), _wrapped(FLOW_USE)]
    parts += ["## What made it", _wrapped(_origin(flow, FLOW_ORIGIN)), table]
    return "\n\n".join([*parts, *([quality] if quality else [])]) + "\n"


def quality_table(path: Path, weights: str) -> str:
    """Format the figures of a `quality.json`; empty where they belong to other weights.

    Args:
        weights: `weights_hash` of the weights that the card describes.
    """
    figures = json.loads(path.read_text()) if path.exists() else {}
    if figures.get("weights") != weights:
        return ""
    table = {key: value for key, value in figures.items() if isinstance(value, dict)}
    rows = [
        f"| {row} | " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()) + " |"
        for row, values in table.items()
    ]
    return "\n".join([MEASURED, "", "| part | measured |", "|---|---|", *rows])


def _origin(denoiser: dict[str, Any], text: str = ORIGIN) -> str:
    """Say with which settings, on what and for how long a denoiser was trained."""
    sessions = denoiser["sessions"]
    devices: list[str] = sorted({session["device"] for session in sessions})
    return text.format(
        seed=denoiser["seed"],
        batch=sessions[-1]["batch_size"],
        scenes=sessions[-1]["scenes"],
        hours=round(denoiser["seconds"] / 3600, 2),
        devices=" and ".join(DEVICES.get(device, device) for device in devices),
    )


def _any(record: dict[str, Any], fact: str) -> bool:
    """Tell whether a fact holds of any session of a training."""
    return any(session.get(fact) for session in record["sessions"])


def _terms(record: dict[str, Any]) -> str:
    """List the loss terms of a training's last logged row."""
    return ", ".join(f"{k} {v}" for k, v in record["last"].items() if k not in NOT_LOSSES)


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)
