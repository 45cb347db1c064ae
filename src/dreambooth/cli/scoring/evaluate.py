"""The work of evaluate.py: score a run, a base model, images, a benchmark, or photos alone."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dreambooth.cli.configuration.subjects import known_subjects, same_class
from dreambooth.cli.scoring.benchmark import BenchmarkCommand
from dreambooth.cli.scoring.drawn_scores import score_drawn
from dreambooth.cli.scoring.references import encoders_of, references_of
from dreambooth.data.photos import list_photos
from dreambooth.data.subjects import gallery_photos
from dreambooth.errors import UserError
from dreambooth.evaluation.calibrate import calibrate, dataset_photos
from dreambooth.evaluation.evaluate import explain
from dreambooth.evaluation.record import References
from dreambooth.evaluation.score import score_files
from dreambooth.evaluation.write import (
    print_scores,
    refuse_a_runs_scores,
    refuse_copies,
    write_scores,
)
from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.manifest import Item, read_manifest
from dreambooth.training.logs.costs import Costs

IMAGE_METRICS = ("dino", "clip_i")  # that need no prompt


def evaluate(cfg: DictConfig) -> int:
    """Score what the command names; return 0.

    Raises:
        UserError: nothing or too much to score, and whatever keeps it from being scored.
    """
    asked = [key for key in ("run", "model", "images", "tree", "calibrate") if cfg.get(key)]
    if len(asked) != 1:
        raise UserError(
            "Say what to score: run=DIR (a finished run), model=NAME (a base model), images=DIR "
            "photos=DIR, tree=DIR photos.root=DIR (a whole benchmark), or calibrate=true "
            "photos.root=DIR; one of them."
        )
    if asked[0] in ("run", "model"):
        return score_drawn(cfg)
    if asked == ["images"]:
        return _images(cfg)
    if asked == ["tree"]:
        command, metrics = BenchmarkCommand(cfg), list(cfg.evaluation.metrics)
        cfg.evaluation.encoders = cfg.evaluation.encoders or "canonical"
        command.run(encoders_of(cfg, metrics), metrics)
        return 0
    root = cfg.photos if isinstance(cfg.photos, str) else cfg.photos.root
    photos = dataset_photos(root, cfg.cache_dir)
    output = Path(cfg.output_dir or ".")
    calibrate(photos, torch_device(cfg.device), cfg.evaluation.encoders_dir, cfg.cache_dir, output)
    return 0


def _images(cfg: DictConfig) -> int:
    folder, metrics, notes = Path(cfg.images), list(cfg.evaluation.metrics), []
    output = Path(cfg.output_dir or folder)
    refuse_a_runs_scores(output)
    if (folder / "manifest.csv").exists():
        items = read_manifest(folder)
    else:
        try:
            items = [Item("subject", path.name, "", "", -1) for path in list_photos(folder)]
        except UserError as error:
            raise UserError(f"images: {error}") from None
        metrics = [metric for metric in metrics if metric in IMAGE_METRICS]
        notes = [f"{folder} has no manifest.csv with prompts: DINO and CLIP-I alone are scored."]
    if not metrics:
        raise UserError(
            f"{folder} has no manifest.csv, and {', '.join(cfg.evaluation.metrics)} need the "
            "prompts: add one with the columns file, prompt and class_only."
        )
    photos, what, described = references_of(cfg, None, [])
    refuse_copies([folder / item.file for item in items], photos)
    cfg.evaluation.encoders = cfg.evaluation.encoders or "canonical"
    encoders, costs = encoders_of(cfg, metrics), Costs()
    with costs.stage("evaluation"):
        files = [folder / item.file for item in items]
        references = References(photos, _gallery_beside(cfg.photos))
        scores = score_files(items, files, references, encoders, metrics)
    scores.notes = notes or scores.notes
    record = {"evaluation": "folder", "folder": str(folder), "images": len(items)}
    record |= explain(photos, what, encoders)
    write_scores(output, scores, {**record, "cost": costs.record})
    print_scores(scores, str(folder), described)
    print(f"{output / 'scores.csv'}\n{output / 'metrics.json'}")
    return 0


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
