"""Score LoRAs that are extracted from full fine-tunes, by rank, beside the fine-tunes themselves.

    python train.py -m subject=dog,vase,backpack method=full evaluation=none logger=csv \\
        hydra.sweep.dir=DIR
    python benchmarks/extraction.py DIR/* [--ranks 1,4,16,64] [--out docs/results]

For each run of method=full below the folders, a LoRA of each rank is extracted, loaded from its
file, and draws what the full model draws: 4 prompts x 4 images, and 8 of the class prompt. Images
are kept in the run's folder `extraction`, so that a stopped benchmark goes on. Printed are means
over the runs; `extraction.json`, `extraction.png` and `extraction_pictures.png` hold the rows, the
figure, and one picture of each rank and run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.evaluation.evaluate import Evaluation
from dreambooth.evaluation.networks import Encoders, load_encoders
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.files import bytes_of, file_hash, write_json
from dreambooth.model.adapters.extraction import extract_lora, total_error, write_extracted
from dreambooth.model.adapters.lora_files import load_lora
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.grid import Labels, labelled_grid
from dreambooth.sampling.provenance import Weights
from dreambooth.study.figures.style import COLOURS, GREY, panels
from dreambooth.study.finished.base_model import base_hash, load_base
from dreambooth.study.finished.runs import Run, find_runs

SCORES = {"dino": "DINO", "clip_t": "CLIP-T", "pres": "PRES"}
SPEC = EvaluationSpec(
    name="extraction",
    prompts="quick",
    images_per_prompt=4,
    class_images=8,
    class_seed=1_000_000,
    other_classes=(),
    metrics=tuple(SCORES),
    encoders="pocket",
    encoders_dir=None,
)
Row = dict[str, Any]


def main() -> None:
    """Measure every run, then print the table and write the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--ranks", default="1,4,16,64")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--cache", default=".cache/dreambooth")
    arguments = parser.parse_args()
    ranks = [int(text) for text in arguments.ranks.split(",")]
    runs = [Run.read(path) for folder in arguments.folders for path in find_runs(folder)]
    device = torch_device("auto")
    encoders = load_encoders(SPEC.encoders, SPEC.metrics, device, None, arguments.cache)
    rows: list[Row] = []
    for run in runs:
        rows += measured(run, ranks, encoders, device)
    write_json(arguments.out / "extraction.json", {"runs": len(runs), "rows": rows})
    print(table(rows))
    draw_figure(rows, arguments.out / "extraction.png")
    draw_pictures(runs, ranks, arguments.out / "extraction_pictures.png")


def measured(run: Run, ranks: Sequence[int], encoders: Encoders, device: str) -> list[Row]:
    """Score the base model, LoRAs of each rank, and the full model of one run."""
    base, full = load_base(run.base), run.load_model()
    whole = bytes_of([run.folder / "model"])
    rows = [scored(run, base, "base", {"base": base_hash(run.base)}, encoders, device)]
    for rank in ranks:
        base = load_base(run.base)
        found = {
            name: extract_lora(base.base_state(name), full.base_state(name), rank)
            for name in base.trainable_networks
        }
        file = write_extracted(base, found, run.folder / "extraction" / f"lora_{rank}")
        fresh = load_base(run.base)
        load_lora(fresh, file)
        row = scored(run, fresh, f"rank_{rank}", {"lora": file_hash(file)}, encoders, device)
        errors = {"error": total_error([*found.values()])}
        errors["error_of_all"] = total_error([*found.values()], with_left_out=True)
        rows.append({**row, "rank": rank, "bytes": file.stat().st_size, **errors})
    hashes = {"export": file_hash(run.folder / "model/unet/diffusion_pytorch_model.safetensors")}
    rows.append({**scored(run, full, "full", hashes, encoders, device), "bytes": whole})
    return rows


def scored(
    run: Run,
    model: BaseModel,
    setting: str,
    hashes: dict[str, str],
    encoders: Encoders,
    device: str,
) -> Row:
    """Draw and score one model's images; those that are there are kept."""
    evaluation = Evaluation(SPEC, run.words, run.sampling, run.photos, encoders)
    weights = Weights(run.base["name"], "lora", run.folder.name, hashes)
    model.requires_grad_(False).eval().to(device)
    scores, _ = evaluation.score_model(model, weights, run.folder / "extraction" / setting)
    means = {}
    for variant, found in scores.summary.items():
        name = variant.split(".")[0]
        if name in SCORES and ".with_id." not in variant:  # of CLIP-T the class noun's
            means[name] = found["mean"]
    return {"run": run.record["subject"]["name"], "setting": setting, **means}


def mean(rows: Sequence[Row], setting: str, name: str) -> float:
    """Return the mean of a column over the runs of a setting."""
    values = [row[name] for row in rows if row["setting"] == setting]
    return sum(values) / len(values)


def settings_of(rows: Sequence[Row]) -> list[str]:
    """List the settings in their order: base, the ranks, full."""
    return list(dict.fromkeys(row["setting"] for row in rows))


def table(rows: Sequence[Row]) -> str:
    """Write the means as a Markdown table."""
    lines = ["| model | error | of all changes | MB | DINO ↑ | CLIP-T ↑ | PRES ↓ |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for setting in settings_of(rows):
        cells = [setting.replace("_", " ")]
        cells += (
            [f"{mean(rows, setting, name):.3f}" for name in ("error", "error_of_all")]
            if setting.startswith("rank")
            else ["", ""]
        )
        cells.append("" if setting == "base" else f"{mean(rows, setting, 'bytes') / 1e6:.2f}")
        cells += [f"{mean(rows, setting, name):.3f}" for name in SCORES]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_figure(rows: Sequence[Row], path: Path) -> None:
    """Plot error, bytes and scores over rank; the full and the base model are lines."""
    figure, axes = panels(2 + len(SCORES), width=3.0)
    settings = [name for name in settings_of(rows) if name.startswith("rank")]
    ranks = [int(name.removeprefix("rank_")) for name in settings]
    plots = {"error": "relative error", "bytes": "file, MB", **SCORES}
    for axis, (name, label) in zip(axes, plots.items(), strict=True):
        scale = 1e6 if name == "bytes" else 1
        for run in dict.fromkeys(row["run"] for row in rows):
            own = [r[name] / scale for r in rows if r["run"] == run and r["setting"] in settings]
            axis.plot(ranks, own, color=GREY, linewidth=0.7, alpha=0.6)
        means = [mean(rows, setting, name) / scale for setting in settings]
        axis.plot(ranks, means, "o-", color=COLOURS[0], markersize=4)
        lines = {"full": COLOURS[1], "base": GREY} if name in SCORES else {}
        lines |= {"full": COLOURS[1]} if name == "bytes" else {}
        for setting, colour in lines.items():
            height = mean(rows, setting, name) / scale
            axis.axhline(height, color=colour, linestyle="--", linewidth=1)
            axis.annotate(setting, (ranks[0], height), color=colour, fontsize="small", va="bottom")
        axis.set_xscale("log", base=2)
        axis.set_xticks(ranks, [str(rank) for rank in ranks])
        axis.set_xlabel("rank")
        axis.set_title(label, fontsize="medium")
        if name in ("error", "bytes"):
            axis.set_ylim(bottom=0)
    figure.savefig(path, dpi=160)


def draw_pictures(runs: Sequence[Run], ranks: Sequence[int], path: Path) -> None:
    """Lay out one picture of each run and setting."""
    settings = ["base", *(f"rank_{rank}" for rank in ranks), "full"]
    pictures = []
    for run in runs:
        item = next(item for item in SPEC.items(run.words) if item.set == "subject")
        for setting in settings:
            with Image.open(run.folder / "extraction" / setting / item.file) as image:
                pictures.append(image.convert("RGB"))
    tops = [setting.replace("_", " ") for setting in settings]
    sides = [run.record["subject"]["name"] for run in runs]
    labelled_grid(pictures, Labels("", tops, sides), 128).save(path)


if __name__ == "__main__":
    main()
