"""Scores of what a run or a base model draws, with what others made: evaluate.py run=, model=."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.configuration.resolvers import slug
from dreambooth.cli.configuration.specs import evaluation_spec
from dreambooth.cli.configuration.subjects import same_class
from dreambooth.cli.drawing.cells import sampling_of
from dreambooth.cli.drawing.sources import NO_SUBJECT, additions_of, source_of, weights_of
from dreambooth.cli.scoring.references import encoders_of, references_of
from dreambooth.data.subjects import find_photos, gallery_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.evaluate import Evaluation
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import print_scores, scores_folder, write_scores
from dreambooth.files import cache_key
from dreambooth.locks import held
from dreambooth.model.adapters.additions import Additions
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.class_images import ClassImages, base_images
from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.base_model import PlainModel, PlainWeights, load_base
from dreambooth.study.finished.run_weights import RunWeights
from dreambooth.study.finished.runs import Run
from dreambooth.training.logs.costs import Costs
from dreambooth.training.logs.loggers import viewers_of


def score_drawn(cfg: DictConfig) -> int:
    """Draw the images that are missing, score all, write and print the scores; return 0.

    Raises:
        UserError: no such run or model, or whatever keeps it from being scored.
    """
    additions = additions_of(cfg)
    source = source_of(cfg, cfg.run, additions)
    evaluation, references = evaluation_of(cfg, source, sampling_of(cfg, source))
    place, name = _place(cfg, source, additions), evaluation.spec.name
    output = scores_folder(place, name)
    run = source if isinstance(source, Run) and place == source.folder else None
    with nullcontext() if run is None else held(place, "pass output_dir=DIR"):
        scores, record = score_weights(
            cfg, evaluation, source, weights_of(source, additions), output, earlier_costs(source)
        )
        if run is not None:
            show_scores(run, scores, name, output)
    print_scores(scores, f"{name}: {place}", references)
    made, images = record["images_made"], record["images"]
    print(f"{made} of {images} images made{', the others were there' if made < images else ''}.")
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


def evaluation_of(
    cfg: DictConfig, source: Run | PlainModel, sampling: Sampling
) -> tuple[Evaluation, str]:
    """Build what scores a source, but for the base model's images, and a sentence on its photos.

    Raises:
        UserError: nothing is to be scored, or photos or networks are not there.
    """
    block = _block(cfg, source)
    settings = evaluation_spec(block)
    if settings is None:
        raise UserError(
            "evaluation=none scores nothing: choose quick, recontext, paper or cornell."
        )
    if isinstance(source, Run):
        photos, what, references = references_of(cfg, source.photos, source.training_photos)
    else:
        photos, what, references = references_of(cfg, _subjects_photos(cfg, source), [])
    encoders = encoders_of(cfg, settings.metrics, block)
    gallery = _gallery(cfg, source) if "gallery" in settings.metrics else {}
    evaluation = Evaluation(settings, source.words, sampling, photos, encoders, what, gallery)
    return evaluation, references


def score_weights(
    cfg: DictConfig,
    evaluation: Evaluation,
    source: Run | PlainModel,
    weights: RunWeights | PlainWeights,
    output: Path,
    earlier: dict[str, Any] | None = None,
) -> tuple[Scores, dict[str, Any]]:
    """Draw the images that `output` lacks, score all, and write the scores there.

    Args:
        source: whose base model the images are compared with.
        earlier: what a run has cost before.

    Returns:
        The scores, and the record that explains them.
    """
    costs = Costs(earlier)
    with costs.stage("evaluation") as places:
        base = _base_images(cfg, evaluation.spec, source, evaluation.sampling)
        model = weights.load().to(torch_device(cfg.device))
        described = weights.describe()
        scores, record = replace(evaluation, base=base).score_model(model, described, output)
        places.append(output)
    write_scores(output, scores, {**record, "cost": costs.record})
    return scores, record


def show_scores(run: Run, scores: Scores, evaluation: str, folder: Path) -> None:
    """Show scores where the run was logged: in its W&B run, and in TensorBoard."""
    with run.reading():
        is_own, step = evaluation == run.config["evaluation"]["name"], run.last_step
    loggers = viewers_of(run.folder)
    loggers.scores(scores, None if is_own else evaluation, folder, step)
    loggers.end({})


def earlier_costs(source: Run | PlainModel) -> dict[str, Any] | None:
    """Return what a run has cost so far; None for a base model."""
    if not isinstance(source, Run):
        return None
    with source.reading():
        return source.record["costs"]


def _block(cfg: DictConfig, source: Run | PlainModel) -> dict[str, Any]:
    """The command's `evaluation`; networks that it does not name are the source's own.

    Plain values: in a config, a record could refer to the environment.
    """
    block: Any = OmegaConf.to_container(cfg.evaluation, resolve=True)
    own: Mapping[str, Any] = {"encoders_dir": None}
    if isinstance(source, Run):
        with source.reading():
            own = {key: source.config["evaluation"][key] for key in ("encoders", "encoders_dir")}
    else:
        own = {**own, "encoders": cfg.model.encoders}
    return block | {key: value for key, value in own.items() if block[key] is None}


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
    subject, (root, rendered) = cfg.subject, _dataset(cfg)
    noun = source.words.class_noun
    return find_photos(subject.name, noun, subject.photos, root, rendered, cfg.cache_dir)


def _dataset(cfg: DictConfig) -> tuple[str | None, int | None]:
    """Where a base model's subjects have their photos: the dataset's folder, or how many to render.

    The dataset holds no subject of the drawn world.
    """
    photos: Any = cfg.photos
    if isinstance(photos, str):
        return None, None
    root = None if "identity" in cfg.subject else photos.root
    return root, photos.rendered if cfg.model.rendered_subjects else None


def _gallery(cfg: DictConfig, source: Run | PlainModel) -> dict[str, list[Path]]:
    """Return the photos of the other subjects of the class."""
    if isinstance(source, Run):
        config, subject = source.config, source.record["subject"]
        root = None if "identity" in config["subject"] else config["photos"]["root"]
        is_rendered = config["model"]["rendered_subjects"]
        rendered = config["photos"]["rendered"] if is_rendered else None
        own = config["subject"]["photos"]
    else:
        subject, own, (root, rendered) = cfg.subject, cfg.subject.photos, _dataset(cfg)
    noun = subject["class_noun"]
    others = same_class(subject["name"], noun)
    return gallery_photos(others, noun, own, root, rendered, cfg.cache_dir)


def _base_images(
    cfg: DictConfig, settings: EvaluationSpec, source: Run | PlainModel, sampling: Sampling
) -> dict[str, list[Path]]:
    """Return the base model's images that kernel distances need; draw the missing ones."""

    @cache
    def load() -> BaseModel:
        return load_base(source.base).requires_grad_(False).eval().to(torch_device(cfg.device))

    base = PlainWeights(PlainModel(source.base, sampling, source.words), Additions())
    seed, images = settings.class_seed, {}
    for prompt in settings.base_prompts(source.words):
        wanted = ClassImages(prompt, settings.class_images, seed, sampling.batch_size)
        images[prompt] = base_images(wanted, load, base.describe(), sampling, cfg.cache_dir)
    return images
