"""What follows the training: export, samples, scores, the run's record and its closing words."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from dreambooth.cli import specs
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.evaluate import Settings, folder_hash, score_model
from dreambooth.evaluation.score import Scores, load_encoders
from dreambooth.evaluation.write import log_image_table, summary_of, write_scores
from dreambooth.files import write_json
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.quoting import quoted, typed
from dreambooth.training import stages
from dreambooth.training.costs import Costs, bytes_of
from dreambooth.training.loggers import finish
from dreambooth.training.summary import closing_summary

log = logging.getLogger(__name__)

STOPPED = "costs.json"  # what a run had cost when it was stopped


def close(
    cfg: DictConfig,
    model: LatentDiffusion,
    folder: Path,
    loggers: list[Logger],
    samples: stages.Samples,
    costs: Costs,
    phases: dict,
    paths: list[Path],
    evaluation: Settings | None,
    curve: Curve | None,
) -> int:
    """Export, final samples, scores, costs and the closing words; 0.

    The run is recorded as soon as its model is there, so that both are of one configuration and
    nothing is lost where sampling or scoring fails. Scores that are there already, and a curve
    where none was asked for, stay only beside the same weights.
    """
    model.to(specs.device(cfg))
    full = any("full" in (p.unet, p.text_encoder) for p in cfg.method.phases)
    lora, token = specs.lora_and_token(cfg)
    kind = "full" if full else "lora" if lora else "token"
    record = {
        "model": {k: cfg.model[k] for k in ("name", "path", "revision", "variant")},
        "export": kind,
        "subject": {k: cfg.subject[k] for k in ("name", "class_noun", "live")},
        "subject_phrase": cfg.subject_phrase,
        "photos": [str(p.resolve()) for p in paths],
        "best_step": None,
        "config": OmegaConf.to_container(cfg, resolve=False),
    }
    if curve is not None:
        curve.finish(sum(p.max_steps for p in cfg.method.phases), loggers)
        phases["curve"] = {"seconds": round(curve.seconds, 2)}
        if cfg.checkpoint.best is not None:
            record["best_step"] = curve.load_best()
    names = ("metrics.json", "scores.csv", *(() if curve else ("curve.csv", "curve.png")))
    earlier = [folder / name for name in names if (folder / name).exists()]
    before = _hash(folder / "model") if earlier else None
    with costs.stage("export") as places:
        snippet = stages.export(model, kind, token, folder / "model", samples)
        places.append(folder / "model")
    _record(folder, record, phases, costs)
    if earlier and _hash(folder / "model") != before:  # they are of a model that is gone
        for path in earlier:
            path.unlink()
        log.info("Removed %s of the model before.", " and ".join(p.name for p in earlier))
    with costs.stage("samples") as places:
        samples.draw("final")
        places.append(folder / "samples")
    scores = _scores(cfg, evaluation, model, folder, paths, costs, loggers)
    total = _record(folder, record, phases, costs)
    finish(loggers, {**total, **(summary_of(scores) if scores else {})}, folder)
    closing_summary(folder, snippet, cfg.subject_phrase, total, scores)
    return 0


def _hash(export: Path) -> str | None:
    return folder_hash(export) if any(export.glob("*")) else None


def _record(folder: Path, record: dict, phases: dict, costs: Costs) -> dict:
    total = {**costs.record, "bytes_written": bytes_of([folder]), **phases}
    write_json(folder / "run.json", {**record, "costs": total})
    (folder / STOPPED).unlink(missing_ok=True)
    return total


def _scores(
    cfg: DictConfig,
    settings: Settings | None,
    model: LatentDiffusion,
    folder: Path,
    paths: list[Path],
    costs: Costs,
    loggers: list[Logger],
) -> Scores | None:
    """Score the run; what keeps it from that is one warning, for the training is done."""
    if settings is None:
        return None
    try:
        with costs.stage("evaluation") as places:
            encoders = load_encoders(
                settings.encoders,
                settings.metrics,
                specs.device(cfg),
                settings.encoders_dir,
                cfg.cache_dir,
            )
            images = folder / "evaluation" / settings.name
            scores, record = score_model(
                model,
                folder / "model",
                specs.sampler(cfg.scheduler),
                specs.sampling(cfg, "sampling"),
                specs.subject(cfg),
                settings,
                paths,
                encoders,
                images,
            )
            places.append(images)
    except (UserError, torch.OutOfMemoryError) as error:
        log.warning(
            "%s; the run is whole, score it later with `python evaluate.py %s "
            "evaluation=%s evaluation.encoders_dir=DIR`.",
            str(error).rstrip("."),
            typed(f"run={quoted(folder)}"),
            settings.name,
        )
        return None
    write_scores(folder, scores, {**record, "cost": costs.record})
    log_image_table(loggers, scores, images)
    return scores
