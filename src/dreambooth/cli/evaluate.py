"""The work of evaluate.py: score a run, a base model, a folder of images, or photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.cells import sampling_of
from dreambooth.cli.resolvers import slug
from dreambooth.cli.sources import NO_SUBJECT, additions_of, source_of, weights_of
from dreambooth.cli.specs import evaluation_spec
from dreambooth.data.photos import list_photos
from dreambooth.data.subjects import find_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.calibrate import calibrate, dataset_photos
from dreambooth.evaluation.evaluate import Evaluation, explain
from dreambooth.evaluation.networks import Encoders, load_encoders
from dreambooth.evaluation.score import score
from dreambooth.evaluation.write import (
    print_scores,
    refuse_a_runs_scores,
    scores_folder,
    write_scores,
)
from dreambooth.files import cache_key, file_hash
from dreambooth.model.adapters.additions import Additions
from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.store import Item, read_manifest
from dreambooth.study.base_model import PlainModel
from dreambooth.study.runs import Run
from dreambooth.training.costs import Costs

IMAGE_METRICS = ("dino", "clip_i")  # that need no prompt


def evaluate(cfg: DictConfig) -> int:
    """Score what the command names; return 0.

    Raises:
        UserError: nothing or too much to score, and whatever keeps it from being scored.
    """
    asked = [key for key in ("run", "model", "images", "calibrate") if cfg.get(key)]
    if len(asked) != 1:
        raise UserError(
            "Say what to score: run=DIR (a finished run), model=NAME (a base model), images=DIR "
            "photos=DIR, or calibrate=true photos.root=DIR; one of them."
        )
    if asked == ["run"] or asked == ["model"]:
        return _drawn(cfg)
    if asked == ["images"]:
        return _images(cfg)
    root = cfg.photos if isinstance(cfg.photos, str) else cfg.photos.root
    photos = dataset_photos(root, cfg.cache_dir)
    output = Path(cfg.output_dir or ".")
    calibrate(photos, torch_device(cfg.device), cfg.evaluation.encoders_dir, cfg.cache_dir, output)
    return 0


def _drawn(cfg: DictConfig) -> int:
    """Score what a run or a base model draws, with what others made."""
    additions = additions_of(cfg)
    source = source_of(cfg, cfg.run, additions)
    for key in ("encoders", "encoders_dir"):
        if cfg.evaluation[key] is None:
            own = source.config["evaluation"] if isinstance(source, Run) else cfg.model
            cfg.evaluation[key] = own.get(key)
    block: Any = OmegaConf.to_container(cfg.evaluation, resolve=True)
    settings = evaluation_spec(block)
    if settings is None:
        raise UserError(
            "evaluation=none scores nothing: choose quick, recontext, paper or cornell."
        )
    if isinstance(source, Run):
        photos, what, references = _references(cfg, source.photos, source.training_photos)
    else:
        photos, what, references = _references(cfg, _subjects_photos(cfg, source), [])
    encoders = _encoders(cfg, settings.metrics)
    evaluation = Evaluation(settings, source.words, sampling_of(cfg, source), photos, encoders)
    place = _place(cfg, source, additions)
    output = scores_folder(place, settings.name)
    costs = Costs(source.record["costs"] if isinstance(source, Run) else None)
    with costs.stage("evaluation") as places:
        weights = weights_of(source, additions)
        model = weights.load().to(torch_device(cfg.device))
        scores, record = evaluation.score_model(model, weights.describe(), output)
        places.append(output)
    record |= explain(photos, what, encoders)
    write_scores(output, scores, {**record, "cost": costs.record})
    print_scores(scores, f"{settings.name}: {place}", references)
    print(f"{record['images_made']} of {record['images']} images made, the others were there.")
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def _place(cfg: DictConfig, source: Run | PlainModel, additions: Additions) -> Path:
    """The folder of the scores: a run's own, and others for a base model and for additions."""
    if cfg.output_dir is not None:
        return Path(cfg.output_dir)
    if isinstance(source, Run) and not additions.record:
        return source.folder
    names = [entry["name"] for entries in additions.record.values() for entry in entries]
    facts = {**additions.record, "phrase": source.words.phrase, "model": dict(source.base)}
    folder = source.folder or Path("outputs/evaluated") / source.base["name"]
    return folder / "with" / f"{slug('_'.join(names) or 'nothing')[:80]}-{cache_key(**facts)[:8]}"


def _subjects_photos(cfg: DictConfig, source: PlainModel) -> list[Path]:
    """The photos of the subject that a base model is scored on, unless the command has others.

    Raises:
        UserError: the command does not say whom the model draws.
    """
    if "subject" not in cfg:
        raise UserError(
            "scores need the subject's class: give subject=dog or another of the dataset, or "
            "subject=folder subject.photos=DIR subject.class_noun=dog."
        )
    if not source.words.phrase:
        raise UserError(f"subject_phrase is missing: {NO_SUBJECT}.")
    if isinstance(cfg.photos, str):
        return []
    subject, photos = cfg.subject, cfg.photos
    rendered = photos.rendered if cfg.model.rendered_subjects else None
    root = None if "identity" in subject else photos.root
    noun = source.words.class_noun
    return find_photos(subject.name, noun, subject.photos, root, rendered, cfg.cache_dir)


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
    if not trained_on:
        return own, "photos", "photos"
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
