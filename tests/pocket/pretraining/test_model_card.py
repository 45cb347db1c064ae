"""The model card: the shipped one is what the code writes of its numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dreambooth.pocket.embedded import FOLDER, weights_hash
from dreambooth.pocket.pretraining.model_card import EXTRAS, card, quality_table


def table(text: str, header: str) -> dict[str, list[str]]:
    """Read a Markdown table: the cells of each row by its first one."""
    lines = text[text.index(header) :].splitlines()
    rows = [line for line in lines[: (lines + [""]).index("")] if not line.startswith("|---")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {first: rest for first, *rest in cells}


def numbers(text: str) -> dict[str, float]:
    """Read `name 0.5, other name 2`."""
    return {name: float(value) for name, value in re.findall(r"(.+?) ([\d.]+)(?:, |$)", text)}


def test_the_shipped_card_is_what_the_code_writes(tmp_path):
    shipped = (FOLDER / "README.md").read_text()
    words = " ".join(shipped.split())
    fact = re.search(r"Seed (\d+), U-Net batch (\d+), ([\d,]+) scenes.* took ([\d.]+) hours", words)
    assert fact is not None
    for name, (samples, last) in table(shipped, "| network |").items():
        session = {"batch_size": int(fact[2]), "device": "cpu"}
        session |= {"scenes": int(fact[3].replace(",", "")), "photo_crops": 1}
        record = {"samples": int(samples.replace(",", "")), "sessions": [session]}
        record |= {"seed": int(fact[1]), "seconds": 3600 * float(fact[4]), "last": numbers(last)}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    rows = {name: numbers(cells[0]) for name, cells in table(shipped, "| part |").items()}
    weights = weights_hash(FOLDER)
    (tmp_path / "quality.json").write_text(json.dumps({"weights": weights, **rows}))

    denoiser = json.loads((tmp_path / "denoiser.json").read_text())
    found: dict[str, Path | None] = dict.fromkeys(EXTRAS.values(), tmp_path)
    quality = quality_table(tmp_path / "quality.json", weights)
    assert len(rows) == 7 and "conf/pretrain.yaml" in words
    assert card(denoiser, tmp_path, found, quality) == shipped


def test_figures_of_other_weights_are_left_out(tmp_path):
    path = tmp_path / "quality.json"
    assert quality_table(path, "aa") == ""
    path.write_text(json.dumps({"weights": "aa", "images": 4, "vae": {"scenes": 27.25}}))
    assert "| vae | scenes 27.2 |" in quality_table(path, "aa")
    assert quality_table(path, "bb") == ""
