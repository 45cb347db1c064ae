"""The README's picture: a run's photos, its samples before training, and its samples after.

python benchmarks/readme_picture.py RUN_FOLDER docs/images/dog.png
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

from PIL import Image

from dreambooth.sampling.grid import grid

COLUMNS = 6


def pictures(folder: Path, prompt: str) -> list[Image.Image]:
    """The images of one prompt in a sample folder, by seed."""
    with open(folder / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] == prompt]
    return [Image.open(folder / row["file"]) for row in rows]


def main(run: Path, target: Path) -> None:
    """Rows: photos; then each prompt before and after training side by side."""
    photos = [Image.open(path) for path in json.loads((run / "run.json").read_text())["photos"]]
    blank = Image.new("RGB", photos[0].size, "white")
    rows, labels = [(photos + [blank] * COLUMNS)[:COLUMNS]], ["the subject's photos"]
    first, last = run / "samples" / "step-000000", run / "samples" / "final"
    with open(last / "manifest.csv", newline="") as file:
        prompts = list(dict.fromkeys(row["prompt"] for row in csv.DictReader(file)))
    half = COLUMNS // 2
    for prompt in prompts:
        before, after = (pictures(folder, prompt)[:half] for folder in (first, last))
        rows.append([*before, *[blank] * (half - len(before)), *after])
        labels.append(f"{prompt}: before training, and after")
    cells = [cell for row in rows for cell in (row + [blank] * COLUMNS)[:COLUMNS]]
    target.parent.mkdir(parents=True, exist_ok=True)
    grid(cells, COLUMNS, labels, cell=128).save(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
