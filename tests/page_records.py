"""A small study as training and evaluation leave it, with pictures, for its page and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.files import write_csv
from run_records import DINO, write_run

CLIP_T = "clip_t.vits16.hub.class_only.matched.cos"
TEMPLATES = ("a {subject}", 'a {subject}, "<script>hacked = true</script>" & مرحبا 🐕')
PUBLISHED = {
    "title": "Prior preservation </script> on and off",
    "question": "Does it <b>help</b>?",
    "source": "A paper, table 1",
    "variants": {"DINO": "ViT-S/16", "CLIP-T": "not stated"},
    "rows": [
        {"name": "without PPL", "setting": {"ppl": False}, "scores": {"DINO": 0.7}},
        {"name": "with PPL", "setting": {"ppl": True}, "scores": {"DINO": 0.6}},
    ],
    "finding": "It lowers DINO.",
}


def write_study(root: Path, subjects: tuple[str, ...] = ("dog", "vase")) -> Path:
    """Runs with and without PPL of each subject: scores, losses, curves, samples of three steps.

    The last run lacks its samples, its photos and its scores.
    """
    for number, subject in enumerate(subjects):
        for ppl in (False, True):
            write_whole_run(root, f"{subject}-{ppl}", subject, ppl, 0.8 - 0.1 * number - 0.2 * ppl)
    broken = write_run(root, "cat-False", 0.5, "cat", ppl=False, published=PUBLISHED)
    (broken / "evaluation/quick/metrics.json").unlink()
    return root


def write_whole_run(root: Path, name: str, subject: str, ppl: bool, score: float) -> Path:
    """A run that has everything that a page shows."""
    scores = {
        DINO: {"metric": "DINO", "mean": score, "interval_95": [score - 0.05, score + 0.05]},
        CLIP_T: {"metric": "CLIP-T class_only", "mean": 1 - score},
    }
    run = write_run(
        root, name, score, subject, record={"scores": scores}, ppl=ppl, published=PUBLISHED
    )
    record = json.loads((run / "run.json").read_text())
    photos = [picture(run / "photos" / f"{i}.png", (40 * i, 90, 200)) for i in range(3)]
    record |= {"subject_phrase": f"sks {subject}", "photos": [str(p) for p in photos]}
    record["subject"]["class_noun"] = subject
    record["costs"] |= {"bytes_written": 2**20}
    record["program"] = {"dreambooth": "0.1.0", "commit": "abc123"}
    (run / "run.json").write_text(json.dumps(record))
    (run / ".hydra").mkdir()
    (run / ".hydra/overrides.yaml").write_text(f"- subject={subject}\n- ppl={ppl}\n")
    steps = range(10, 50, 10)
    lines = [{"step": s, "loss/instance": 1 / s, "loss/prior": 0.5 * ppl} for s in steps]
    write_csv(run / "metrics.csv", lines)
    write_csv(run / "curve.csv", [{"step": s, DINO: s / 100, "measured": "x"} for s in (0, 20, 40)])
    for shade, step in enumerate(("step-000020", "step-000040", "final")):
        write_samples(run / "samples" / step, f"sks {subject}", (80 * shade, 99 * ppl, 60))
    return run


def write_samples(folder: Path, phrase: str, colour: tuple[int, int, int]) -> None:
    """Pictures of every prompt with two seeds, and their manifest."""
    rows: list[dict[str, Any]] = []
    for number, template in enumerate(TEMPLATES):
        for seed in (0, 1):
            file = picture(
                folder / f"{number:02d}_seed{seed}.png", (*colour[:2], 90 * number + seed)
            )
            prompt = template.replace("{subject}", phrase)
            rows.append({"set": "subject", "file": file.name, "prompt": prompt, "seed": seed})
    write_csv(folder / "manifest.csv", rows)


def picture(path: Path, colour: tuple[int, ...], side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)
    return path
