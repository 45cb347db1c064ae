"""Records of finished runs as training and evaluation write them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreambooth.evaluation.record import Groups, Scores
from dreambooth.evaluation.write import write_scores

DINO = "dino.vits16.hub.r256c224_bicubic.allpairs.macro"
CLIP_T = "clip_t.b32.class_only.matched.cos"
PRES = f"pres.class_prompt.{DINO}"
METRICS = {DINO: "DINO", CLIP_T: "CLIP-T class_only", PRES: "PRES"}


def write_run(
    root: Path,
    name: str,
    score: float,
    subject: str = "dog",
    variant: str = DINO,
    evaluation: str = "quick",
    weights: str = "abc",
    record: dict | None = None,
    **config: Any,
) -> Path:
    """A finished run with one score; `record` replaces parts of metrics.json."""
    written = {"subject": {"name": subject}, "seed": 0, "ppl": True, "lr": 1e-4, **config}
    written |= {"instance_prompt": "a ${subject.name}", "evaluation": {"name": evaluation}}
    run = write_record(root / name, written, subject)
    networks = {"dino": {"weights": weights}, "lpips": {"weights": "123"}}
    metrics = {
        "evaluation": evaluation,
        "protocol": {"prompts": "quick", "templates": "t"},
        "provenance": {"export": name, "sampler": "DDIMScheduler", "options": {}},
        "encoders": {"family": "pocket", **networks},
        "references": {"what": "training photos", "files": []},
        "scores": {variant: {"metric": "DINO", "mean": score}},
        **(record or {}),
    }
    write_metrics(run, metrics)
    return run


def write_record(run: Path, written: dict[str, Any], subject: str = "dog") -> Path:
    """`run.json` of a configuration, which is resolved as train.py does it."""
    run.mkdir(parents=True, exist_ok=True)
    config = OmegaConf.to_container(OmegaConf.create(written), resolve=True)
    record = {
        "subject": {"name": subject, "class_noun": "dog"},
        "costs": {"seconds": 1.5, "peak_memory_gib": 0.5},
        "config": {**config, "output_dir": str(run)},
        "written": {**written, "output_dir": "${hydra:runtime.output_dir}"},
        "sampling": {},
    }
    (run / "run.json").write_text(json.dumps(record))
    return run


def metrics_file(run: Path, evaluation: str = "quick") -> Path:
    """Where the scores of an evaluation are."""
    return run / "evaluation" / evaluation / "metrics.json"


def read_metrics(run: Path, evaluation: str = "quick") -> dict:
    return json.loads(metrics_file(run, evaluation).read_text())


def write_metrics(run: Path, metrics: dict) -> None:
    path = metrics_file(run, metrics["evaluation"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics))


def write_images(run: Path, scores: dict[str, list[float]], evaluation: str = "quick") -> None:
    """Replace a run's scores by those of images, two a prompt: scores.csv and metrics.json."""
    record, written = read_metrics(run, evaluation), Scores()
    for variant, values in scores.items():
        rows = [{"set": "subject", "file": f"{i}.png"} for i in range(len(values))]
        groups = Groups([str(i // 2) for i in range(len(values))], "prompts")
        name = METRICS.get(variant, "DINO, real images")
        written.rows += rows
        written.add(variant, name, rows, values, groups)
    write_scores(metrics_file(run, evaluation).parent, written, record)
