"""The work of evaluate.py: score a finished run, a folder of images, or photos among themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.blocks import method_spec
from dreambooth.cli.cells import sampling_of
from dreambooth.cli.specs import evaluation_spec
from dreambooth.data.photos import list_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.calibrate import calibrate, dataset_photos
from dreambooth.evaluation.evaluate import Evaluation, explain
from dreambooth.evaluation.networks import Encoders, load_encoders
from dreambooth.evaluation.score import Scores, score
from dreambooth.evaluation.write import (
    print_scores,
    refuse_a_runs_scores,
    scores_folder,
    write_scores,
)
from dreambooth.files import file_hash
from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.store import Item, read_manifest
from dreambooth.study.run_weights import RunWeights
from dreambooth.study.runs import Run
from dreambooth.training.costs import Costs
from dreambooth.training.loggers import viewers_of

IMAGE_METRICS = ("dino", "clip_i")  # that need no prompt


def evaluate(cfg: DictConfig) -> int:
    """Score what the command names; return 0.

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
    calibrate(photos, torch_device(cfg.device), cfg.evaluation.encoders_dir, cfg.cache_dir, output)
    return 0


def _run(cfg: DictConfig) -> int:
    run = Run.read(cfg.run)
    for key in ("encoders", "encoders_dir"):
        if cfg.evaluation[key] is None:
            cfg.evaluation[key] = run.config["evaluation"][key]
    block: Any = OmegaConf.to_container(cfg.evaluation, resolve=True)
    settings = evaluation_spec(block)
    if settings is None:
        raise UserError(
            "evaluation=none scores nothing: choose quick, recontext, paper or cornell."
        )
    photos, what, references = _references(cfg, run.photos, run.training_photos)
    encoders = _encoders(cfg, settings.metrics)
    evaluation = Evaluation(settings, run.words, sampling_of(cfg, run), photos, encoders)
    output = scores_folder(Path(cfg.output_dir or run.folder), settings.name)
    costs = Costs(run.record["costs"])
    with costs.stage("evaluation") as places:
        model = run.load_model().to(torch_device(cfg.device))
        weights = RunWeights(run, method_spec(run.config["method"])).describe()
        scores, record = evaluation.score_model(model, weights, output)
        places.append(output)
    record |= explain(photos, what, encoders)
    write_scores(output, scores, {**record, "cost": costs.record})
    if cfg.output_dir is None:
        show_scores(run, scores, settings.name, output)
    print_scores(scores, f"{settings.name}: {run.folder}", references)
    print(f"{record['images_made']} of {record['images']} images made, the others were there.")
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def show_scores(run: Run, scores: Scores, evaluation: str, folder: Path) -> None:
    """Show scores where the run was logged: in its W&B run, and in TensorBoard."""
    is_own = evaluation == run.config["evaluation"]["name"]
    loggers = viewers_of(run.folder)
    loggers.scores(scores, None if is_own else evaluation, folder, run.last_step)
    loggers.end({})


def _images(cfg: DictConfig) -> int:
    folder, metrics, notes = Path(cfg.images), list(cfg.evaluation.metrics), []
    output = Path(cfg.output_dir or folder)
    refuse_a_runs_scores(output)
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
    photos, what, references = _references(cfg, None, [])
    _refuse_copies([folder / item.file for item in items], photos)
    cfg.evaluation.encoders = cfg.evaluation.encoders or "canonical"
    encoders, costs = _encoders(cfg, metrics), Costs()
    with costs.stage("evaluation"):
        scores = score(items, [folder / i.file for i in items], photos, encoders, metrics)
    scores.notes = notes or scores.notes
    record = {"evaluation": "folder", "folder": str(folder), "images": len(items)}
    record |= explain(photos, what, encoders)
    write_scores(output, scores, {**record, "cost": costs.record})
    print_scores(scores, str(folder), references)
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def _references(
    cfg: DictConfig, own: list[Path] | None, trained_on: list[Path]
) -> tuple[list[Path], str, str]:
    """The photos to compare with, their kind, and a sentence on them.

    A training photo is one whose file has the same bytes as one that the run was trained on. `own`
    are the photos of the run's subject; None where there is no run.
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
    what = "training photos" if own == trained_on else "training and other photos"
    return own, what, what


def _kind(photos: list[Path], trained_on: list[Path]) -> tuple[str, str]:
    """Whether a model saw the photos, as a kind and as a count."""
    known = {file_hash(path) for path in trained_on if path.is_file()}
    given = [file_hash(path) for path in photos]
    seen = sum(digest in known for digest in given)
    count = f"{seen} of {len(given)} are training photos"
    if seen == len(given):
        return ("training photos" if set(given) == known else "some training photos"), count
    if seen:
        return "training and other photos", count
    if not trained_on or not all(path.is_file() for path in trained_on):
        return "photos", "whether a model trained on them is not known"
    return "other photos", count


def _refuse_copies(images: list[Path], photos: list[Path]) -> None:
    known = {file_hash(path): path for path in photos}
    for path in images:
        if copied := known.get(file_hash(path)):
            raise UserError(
                f"{path} is the same file as the photo {copied}, and beside itself it would score "
                "1: take it out of images=DIR; calibrate=true compares photos with photos."
            )


def _encoders(cfg: DictConfig, metrics: list[str] | tuple[str, ...]) -> Encoders:
    # not resolved: `encoders` may refer to a model that this command does not have
    block: Any = OmegaConf.to_container(cfg.evaluation, resolve=False)
    device = torch_device(cfg.device)
    return load_encoders(block["encoders"], metrics, device, block["encoders_dir"], cfg.cache_dir)
