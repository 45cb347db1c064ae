"""What evaluate.py does: score a finished run, a folder of images, or photos against themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dreambooth.cache import file_hash
from dreambooth.calibrate import calibrate, dataset_photos
from dreambooth.compose import evaluation, sampler
from dreambooth.costs import Costs
from dreambooth.data.photos import list_photos
from dreambooth.errors import UserError
from dreambooth.evaluate import Subject, explain, score_model
from dreambooth.evaluation_images import Item, read_manifest
from dreambooth.generate import Sampling
from dreambooth.runs import load_model, load_run
from dreambooth.scores_table import print_scores, write_scores
from dreambooth.scoring import Encoders, load_encoders, score

IMAGE_METRICS = ("dino", "clip_i")  # that need no prompt


def assess(cfg: DictConfig) -> int:
    """Score what the command names; 0.

    Raises:
        UserError: nothing or too much to score, and whatever keeps it from being scored.
    """
    asked = [key for key in ("run", "images", "calibrate") if cfg[key]]
    if len(asked) != 1:
        raise UserError(
            "Say what to score: run=DIR (a finished run), images=DIR photos=DIR, or calibrate=true "
            "photos.root=DIR; one of them."
        )
    if asked == ["run"]:
        return _run(cfg)
    if asked == ["images"]:
        return _images(cfg)
    root = cfg.photos if isinstance(cfg.photos, str) else cfg.photos.root
    photos = dataset_photos(root, cfg.cache_dir)
    output = Path(cfg.output_dir or ".")
    calibrate(photos, _device(cfg), cfg.evaluation.encoders_dir, cfg.cache_dir, output)
    return 0


def _run(cfg: DictConfig) -> int:
    run = load_run(cfg.run)
    for key in ("encoders", "encoders_dir"):
        if cfg.evaluation[key] is None:
            cfg.evaluation[key] = run.config["evaluation"][key]
    settings = evaluation(cfg)
    if settings is None:
        raise UserError("evaluation=none scores nothing: choose quick, paper or cornell.")
    photos, references = _references(cfg, [Path(p) for p in run.record["photos"]])
    encoders = _encoders(cfg, settings.metrics)
    own = {**run.config["sampling"], "resolution": run.config["resolution"]}
    names = ("num_inference_steps", "guidance_scale", "batch_size")
    sampling = Sampling(**{**own, **{n: cfg[n] for n in names if cfg[n] is not None}})
    how = sampler(cfg.scheduler) if "scheduler" in cfg else run.sampler
    subject = Subject(
        run.record["subject_phrase"], run.record["subject"]["class_noun"],
        run.config["class_prompt"], run.record["subject"]["live"],
    )  # fmt: skip
    costs, images = Costs(), run.folder / "evaluation" / settings.name
    with costs.stage("evaluation") as places:
        model = load_model(run).to(_device(cfg))
        scores, record = score_model(
            model, run.folder / "model", how, sampling, subject, settings, photos, encoders, images
        )
        places.append(images)
    record |= explain(photos, references, encoders)
    stages = {**run.record["costs"]["stages"], **costs.stages}
    output = Path(cfg.output_dir or run.folder)
    write_scores(output, scores, {**record, "cost": {**costs.totals, "stages": stages}})
    print_scores(scores, f"{settings.name}: {run.folder}", references)
    print(f"{record['images_made']} of {record['images']} images made, the others were there.")
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def _images(cfg: DictConfig) -> int:
    folder, metrics, notes = Path(cfg.images), list(cfg.evaluation.metrics), []
    if (folder / "manifest.csv").exists():
        items = read_manifest(folder)
    else:
        items = [Item("subject", path.name, "", "", -1) for path in list_photos(folder)]
        metrics = [metric for metric in metrics if metric in IMAGE_METRICS]
        notes = [f"{folder} has no manifest.csv with prompts: DINO and CLIP-I alone are scored."]
    if not metrics:
        raise UserError(
            f"{folder} has no manifest.csv, and {', '.join(cfg.evaluation.metrics)} need the "
            "prompts: add one with the columns file, prompt and class_only."
        )
    photos, references = _references(cfg, None)
    cfg.evaluation.encoders = cfg.evaluation.encoders or "canonical"
    encoders, costs = _encoders(cfg, metrics), Costs()
    with costs.stage("evaluation"):
        scores = score(items, [folder / i.file for i in items], photos, encoders, metrics)
    scores.notes = notes or scores.notes
    record = {"evaluation": "folder", "folder": str(folder), "images": len(items)}
    record |= explain(photos, references, encoders)
    output = Path(cfg.output_dir or folder)
    write_scores(output, scores, {**record, "cost": costs.record})
    print_scores(scores, str(folder), references)
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def _references(cfg: DictConfig, trained_on: list[Path] | None) -> tuple[list[Path], str]:
    """The photos to compare with, and what they are, in words."""
    if isinstance(cfg.photos, str):
        photos = list_photos(cfg.photos)
        if trained_on is None:
            return photos, f"photos in {cfg.photos} (whether a model trained on them is not known)"
        known = {file_hash(path) for path in trained_on if path.is_file()}
        same = {file_hash(path) for path in photos} == known
        return photos, "training photos" if same else f"photos in {cfg.photos}"
    if trained_on is None:
        raise UserError("photos=DIR is missing: give the folder of the subject's photos.")
    lost = [path for path in trained_on if not path.is_file()]
    if lost:
        raise UserError(
            f"the training photo {lost[0]} is not there any more: pass photos=DIR with the "
            "subject's photos."
        )
    return trained_on, "training photos"


def _encoders(cfg: DictConfig, metrics: list[str] | tuple[str, ...]) -> Encoders:
    block = OmegaConf.to_container(cfg.evaluation, resolve=False)
    return load_encoders(
        block["encoders"], metrics, _device(cfg), block["encoders_dir"], cfg.cache_dir
    )


def _device(cfg: DictConfig) -> str:
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return automatic if cfg.device == "auto" else cfg.device
