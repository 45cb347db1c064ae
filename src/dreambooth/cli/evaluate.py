"""The work of evaluate.py: score a run, a folder of images, a benchmark, or photos alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.benchmark import BenchmarkCommand
from dreambooth.cli.blocks import method_spec
from dreambooth.cli.cells import sampling_of
from dreambooth.cli.specs import evaluation_spec
from dreambooth.cli.subjects import known_subjects, same_class
from dreambooth.data.photos import list_photos
from dreambooth.data.subjects import gallery_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.calibrate import calibrate, dataset_photos
from dreambooth.evaluation.evaluate import Evaluation, explain
from dreambooth.evaluation.networks import Encoders, load_encoders
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.evaluation.record import References, Scores
from dreambooth.evaluation.score import score
from dreambooth.evaluation.write import (
    print_scores,
    refuse_a_runs_scores,
    refuse_copies,
    scores_folder,
    write_scores,
)
from dreambooth.files import file_hash
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.class_images import ClassImages, base_images
from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.spec import Sampling
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
    asked = [key for key in ("run", "images", "tree", "calibrate") if cfg[key]]
    if len(asked) != 1:
        raise UserError(
            "Say what to score: run=DIR (a finished run), images=DIR photos=DIR, tree=DIR "
            "photos.root=DIR (a whole benchmark), or calibrate=true photos.root=DIR; one of them."
        )
    if asked == ["run"]:
        return _run(cfg)
    if asked == ["images"]:
        return _images(cfg)
    if asked == ["tree"]:
        command, metrics = BenchmarkCommand(cfg), list(cfg.evaluation.metrics)
        cfg.evaluation.encoders = cfg.evaluation.encoders or "canonical"
        command.run(_encoders(cfg, metrics), metrics)
        return 0
    root = cfg.photos if isinstance(cfg.photos, str) else cfg.photos.root
    photos = dataset_photos(root, cfg.cache_dir)
    output = Path(cfg.output_dir or ".")
    calibrate(photos, torch_device(cfg.device), cfg.evaluation.encoders_dir, cfg.cache_dir, output)
    return 0


def _run(cfg: DictConfig) -> int:
    run = Run.read(cfg.run)
    # as plain values: in a config, a record could refer to the environment
    block: Any = OmegaConf.to_container(cfg.evaluation, resolve=True)
    with run.reading():
        scored, method = run.config["evaluation"], method_spec(run.config["method"])
        for key in ("encoders", "encoders_dir"):
            block[key] = scored[key] if block[key] is None else block[key]
        costs = Costs(run.record["costs"])
    settings = evaluation_spec(block)
    if settings is None:
        raise UserError(
            "evaluation=none scores nothing: choose quick, recontext, paper or cornell."
        )
    photos, what, references = _references(cfg, run.photos, run.training_photos)
    encoders = _encoders(cfg, settings.metrics, block)
    sampling = sampling_of(cfg, run)
    gallery = _gallery(cfg, run) if "gallery" in settings.metrics else {}
    output = scores_folder(Path(cfg.output_dir or run.folder), settings.name)
    weights = RunWeights(run, method)
    with costs.stage("evaluation") as places:
        base = _base_images(cfg, settings, weights, sampling)
        model = run.load_model().to(torch_device(cfg.device))
        evaluation = Evaluation(
            settings, run.words, sampling, photos, encoders, what, gallery, base
        )
        scores, record = evaluation.score_model(model, weights.describe(), output)
        places.append(output)
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
    photos, what, described = _references(cfg, None, [])
    refuse_copies([folder / item.file for item in items], photos)
    cfg.evaluation.encoders = cfg.evaluation.encoders or "canonical"
    encoders, costs = _encoders(cfg, metrics), Costs()
    with costs.stage("evaluation"):
        files = [folder / item.file for item in items]
        references = References(photos, _gallery_beside(cfg.photos))
        scores = score(items, files, references, encoders, metrics)
    scores.notes = notes or scores.notes
    record = {"evaluation": "folder", "folder": str(folder), "images": len(items)}
    record |= explain(photos, what, encoders)
    write_scores(output, scores, {**record, "cost": costs.record})
    print_scores(scores, str(folder), described)
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def _gallery(cfg: DictConfig, run: Run) -> dict[str, list[Path]]:
    """Return the photos of the other subjects of the run's class."""
    subject, config = run.record["subject"], run.config
    return gallery_photos(
        same_class(subject["name"], subject["class_noun"]),
        subject["class_noun"],
        config["subject"]["photos"],
        None if "identity" in config["subject"] else config["photos"]["root"],
        config["photos"]["rendered"] if config["model"]["rendered_subjects"] else None,
        cfg.cache_dir,
    )


def _gallery_beside(photos: str) -> dict[str, list[Path]]:
    """Return the photos of the class's other subjects in the folder beside the subject's own.

    There are some where `photos` is the folder of a known subject within the dataset.
    """
    folder = Path(photos).expanduser().resolve()
    words = known_subjects().get(folder.name)
    if words is None:
        return {}
    names, noun = same_class(folder.name, words.class_noun), words.class_noun
    return gallery_photos(names, noun, photos, str(folder.parent), None, "")


def _base_images(
    cfg: DictConfig, settings: EvaluationSpec, weights: RunWeights, sampling: Sampling
) -> dict[str, list[Path]]:
    """Return the base model's images that kernel distances need; draw the missing ones."""

    @cache
    def load() -> BaseModel:
        model = weights.load_base().requires_grad_(False).eval()
        return model.to(torch_device(cfg.device))

    seed, images = settings.class_seed, {}
    for prompt in settings.base_prompts(weights.run.words):
        wanted = ClassImages(prompt, settings.class_images, seed, sampling.batch_size)
        images[prompt] = base_images(wanted, load, weights.base(), sampling, cfg.cache_dir)
    return images


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


def _encoders(
    cfg: DictConfig, metrics: list[str] | tuple[str, ...], block: Mapping[str, Any] | None = None
) -> Encoders:
    """Load the networks that `block` names; the command's own `evaluation` without it."""
    # not resolved: `encoders` may refer to a model that this command does not have
    own: Any = OmegaConf.to_container(cfg.evaluation, resolve=False)
    named = block or own
    device = torch_device(cfg.device)
    return load_encoders(named["encoders"], metrics, device, named["encoders_dir"], cfg.cache_dir)
