"""The model card: what it is, what made it, how well it does; every sentence from a record."""

from __future__ import annotations

import json
from pathlib import Path

NOT_LOSSES = ("samples", "per_second", "scale")
EXTRAS = {"dino": "encoders/dino", "clip": "encoders/clip", "probe": "probe.safetensors"}
DEVICES = {"cpu": "CPU cores", "cuda": "a GPU"}


def card(denoiser: dict, folder: Path, found: dict[str, Path | None], quality: str) -> str:
    """The card's text.

    Args:
        denoiser: `states.account` of the exported state.
        folder: the cache, which holds `<name>.json` of every training that ended.
        found: for each of the extras the folder that it comes from, None where it is left out.
        quality: `measured`.
    """
    records, foreign = {"denoiser": denoiser}, []
    for name, part in {"vae": "vae", **EXTRAS}.items():
        record = folder / f"{name}.json"
        if found.get(part, folder) == folder and record.exists():
            records[name] = json.loads(record.read_text())
        elif found.get(part, folder) is not None:
            foreign.append(part)
    begun = [name for name in records if _any(records, name, "init")]
    devices = sorted({sitting["device"] for sitting in denoiser["sittings"]})
    said = {
        "encoders": ENCODERS if found["encoders/clip"] and found["encoders/dino"] else "",
        "photos": PHOTOS if "vae" in records and _any(records, "vae", "photo_crops") else "",
        "begun": f"\nBegun from an earlier package's weights: {', '.join(begun)}." if begun else "",
        "foreign": f"\nOf an earlier package or run: {', '.join(foreign)}." if foreign else "",
    }
    return CARD.format(
        **said,
        quality=quality,
        curves="\n".join(_row(name, records[name]) for name in records),
        seed=denoiser["seed"],
        batch=denoiser["sittings"][-1]["batch_size"],
        scenes=f"{denoiser['sittings'][-1]['scenes']:,}",
        hours=round(denoiser["seconds"] / 3600, 2),
        devices=" and ".join(DEVICES.get(device, device) for device in devices),
    )


def _any(records: dict[str, dict], name: str, fact: str) -> bool:
    return any(sitting.get(fact) for sitting in records[name]["sittings"])


def _row(name: str, record: dict) -> str:
    terms = ", ".join(f"{k} {v}" for k, v in record["last"].items() if k not in NOT_LOSSES)
    return f"| {name} | {record['samples']:,} | {terms} |"


def measured(path: Path, weights: str) -> str:
    """The table of a `quality.json`, where its figures are of these weights."""
    figures = json.loads(path.read_text()) if path.exists() else {}
    if figures.get("weights") != weights:
        return ""
    table = {key: value for key, value in figures.items() if isinstance(value, dict)}
    rows = [
        f"| {row} | " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()) + " |"
        for row, values in table.items()
    ]
    return "\n".join([MEASURED, "| part | measured |", "|---|---|", *rows, ""])


ENCODERS = """ `encoders/` holds a small CLIP and a
small DINO-style ViT for the metrics, trained on the same world."""
PHOTOS = """ Its VAE also saw crops of real photos, so that a user's own photos survive it; none
of them is in this folder."""
MEASURED = """
Measured on these weights by `python benchmarks/pocket_quality.py`, where the rows are explained:
"""
CARD = """# The pocket model

A text-to-image latent diffusion model for 64x64 pictures in Stable Diffusion's own format, trained
from scratch on scenes that its project renders itself (`dreambooth.pocket.world`): fifteen classes
of the DreamBooth dataset in seventeen contexts. Made for the command `train.py`, so that DreamBooth
can be studied without a GPU and without a network.{encoders}

It draws that world and nothing else: it knows no people, no places and no words beyond the world's
captions. Identities and some combinations of class, colour and context are held out of its training
by a hash, for measuring.{photos}

## What made it

`dreambooth pretrain`, whose settings are in `conf/pretrain.yaml`; what was set
otherwise for the weights that the package ships is in `docs/results/pocket.md`. Seed {seed}, U-Net
batch {batch}, {scenes} scenes, v-prediction with Min-SNR weights, averaged weights, float16
safetensors. U-Net and text encoder took {hours} hours on {devices}.{begun}{foreign}

| network | samples | last logged values |
|---|---|---|
{curves}
{quality}"""
