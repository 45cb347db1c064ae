"""The whole job: prepare, fine-tune each phase, export, sample, score; every stage's cost."""

from __future__ import annotations

import logging
import random
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from dreambooth import callbacks, compose, job, ranks
from dreambooth.cache import write_json
from dreambooth.costs import Costs, bytes_of
from dreambooth.curve import Curve
from dreambooth.data.datamodule import Crops, KeyedBatches, encode_examples
from dreambooth.errors import UserError
from dreambooth.evaluate import Settings, drawing, items_of, score_model
from dreambooth.loggers import finish
from dreambooth.model.latent_diffusion import LatentDiffusion
from dreambooth.model.trainable import Phase, prepare, trainable_parameters
from dreambooth.module import DreamBooth, Loss
from dreambooth.scores_table import log_image_table, summary_of, write_scores
from dreambooth.scoring import Scores, load_encoders
from dreambooth.summary import closing_summary

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> int:
    """The whole job in `cfg.output_dir`; 0, or 128 + the signal that stopped it."""
    _quiet()
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)  # whatever a library still draws globally is at least repeatable
    costs, folder = Costs(), Path(cfg.output_dir)
    # refused here, not after the training
    evaluation, curve_evaluation = compose.evaluation(cfg), compose.curve_evaluation(cfg)
    model = LatentDiffusion.from_pretrained(
        job.model_path(cfg.model.path), cfg.model.revision, cfg.model.variant
    )
    paths = job.find_photos(
        cfg.subject.name, cfg.subject.class_noun, cfg.subject.photos, cfg.photos.root,
        cfg.photos.rendered if cfg.model.rendered_subjects else None, cfg.cache_dir,
    )  # fmt: skip
    model.to(compose.device(cfg)).requires_grad_(False).eval()
    batches = _batches(cfg, model, paths, costs)
    loggers = compose.loggers(cfg, folder)
    samples = compose.samples(cfg, model, folder)
    facts = compose.training_facts(cfg, model, paths, batches)
    curve = _curve(cfg, curve_evaluation, model, paths, folder)
    phases, result = {}, {}
    with costs.stage("training") as places, ranks.same_job(cfg.output_dir):
        places.append(folder / "checkpoints")
        for number, phase in enumerate(cfg.method.phases):
            phases[f"phase_{number}"] = result = _fit(
                cfg, number, phase, model, batches, folder, facts, loggers, samples, curve
            )
            if result["stopped"]:
                break
    if not ranks.is_first():
        return 0
    if result["stopped"]:
        finish(loggers, {}, folder)
        print(f"\nStopped; everything is saved. Continue with hydra.run.dir={folder}")
        return 128 + result["stopped"]
    return _close(cfg, model, folder, loggers, samples, costs, phases, paths, evaluation, curve)


def _quiet() -> None:
    """Silence what a user cannot act on."""
    for message in (
        ".*does not have many workers.*", ".*LeafSpec.*", ".*lr_scheduler.step.*",
        ".*in eval mode at the start of training.*",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _batches(
    cfg: DictConfig, model: LatentDiffusion, paths: list[Path], costs: Costs
) -> KeyedBatches:
    """Class images where they serve, then every photo's latents."""
    encode = partial(encode_examples, model, seed=cfg.seed, cache_dir=cfg.cache_dir)
    instance, prior, class_paths = None, None, []
    if cfg.ppl and cfg.method.uses_prior:
        with costs.stage("class_images") as places:
            class_paths = job.prepare_class_images(
                model, cfg.class_prompt, cfg.prior.num_class_images,
                compose.sampler(cfg.prior.sampler), compose.sampling(cfg, "prior"),
                cfg.prior.seed, cfg.prior.images_dir, cfg.cache_dir,
            )  # fmt: skip
            places += class_paths
    with costs.stage("latents"):
        cut = Crops(cfg.resolution, **cfg.augment)
        texts = job.captions(paths, cfg.instance_prompt)
        instance = encode(paths=paths, prompts=texts, cut=cut)
        if class_paths:
            class_texts = job.captions(class_paths, cfg.class_prompt)
            prior = encode(paths=class_paths, prompts=class_texts, cut=Crops(cfg.resolution))
    encoded = [e for e in (instance, prior) if e is not None]
    costs.stages["latents"]["bytes"] = sum(e.mean.nbytes + e.logvar.nbytes for e in encoded)
    return KeyedBatches(
        instance, prior, cfg.batch_size, cfg.prior.batch_size,
        model.noise_scheduler.config.num_train_timesteps, cfg.seed,
        cfg.loss.noise_offset, cfg.pairing,
    )  # fmt: skip


def _curve(
    cfg: DictConfig, settings: Settings | None, model: LatentDiffusion, paths: list[Path],
    folder: Path,
) -> Curve | None:  # fmt: skip
    """The curve that was asked for; a run goes on without it, unless it chooses the export."""
    if settings is None:
        return None
    try:
        encoders = load_encoders(
            settings.encoders, settings.metrics, compose.device(cfg), settings.encoders_dir,
            cfg.cache_dir,
        )  # fmt: skip
    except UserError as error:
        if cfg.checkpoint.best is not None:
            raise
        log.warning("This run has no curve: %s", error)
        return None
    draw = drawing(model, compose.sampler(cfg.scheduler), compose.sampling(cfg, "sampling"))
    before = sum(phase.max_steps for phase in cfg.method.phases[:-1])
    items = items_of(settings, compose.subject(cfg))
    best_after = before if cfg.checkpoint.best is not None else None
    return Curve(model, draw, items, paths, encoders, folder, best_after)


def _fit(
    cfg, number, phase, model, batches, folder, facts, loggers, samples, curve: Curve | None
) -> dict:
    lora, token = compose.lora_and_token(cfg)
    what = Phase(phase.unet, phase.text_encoder)
    if (what.unet, what.text_encoder) == ("frozen", "token"):
        batches = replace(batches, prior=None)  # a class prompt does not hold the new token
    prepare(model, what, lora, token, cfg.seed, getattr(torch, cfg.frozen_dtype))
    if cfg.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if cfg.compile:
        model.unet.compile()
    loss = Loss(cfg.prior.weight, cfg.loss.min_snr_gamma, cfg.loss.noise_schedule_dtype)
    done = sum(p.max_steps for p in cfg.method.phases[:number])
    module = DreamBooth(model, loss, compose.optimization(cfg, phase), done)
    prompts = {*batches.instance.prompts, *(batches.prior.prompts if batches.prior else ())}
    module.embed_once(prompts)
    extra = []
    if cfg.samples.every_n_steps:
        extra.append(callbacks.EveryNSteps(cfg.samples.every_n_steps, samples.during))
    if curve is not None:
        extra.append(callbacks.EveryNSteps(cfg.evaluation.every_n_steps, curve.during))
    result = job.fit(
        partial(instantiate, cfg.trainer, logger=loggers, enable_progress_bar=True),
        module, batches, folder / "checkpoints" / f"phase-{number}",
        {**facts, "phase": {"unet": phase.unet, "text_encoder": phase.text_encoder}},
        cfg.resume if number == 0 or cfg.resume in ("auto", None) else "auto",
        phase.max_steps, cfg.accumulate, cfg.checkpoint.every_n_steps, cfg.checkpoint.keep,
        extra, cfg.ema_decay,
    )  # fmt: skip
    trained = trainable_parameters(model).values()
    return result | {"trained_parameters": sum(p.numel() for p in trained)}


def _close(
    cfg, model, folder, loggers: list[Logger], samples, costs: Costs, phases: dict, paths,
    evaluation: Settings | None, curve: Curve | None,
) -> int:  # fmt: skip
    """Export, final samples, scores, costs and the closing words."""
    model.to(compose.device(cfg))
    full = any("full" in (p.unet, p.text_encoder) for p in cfg.method.phases)
    lora, token = compose.lora_and_token(cfg)
    record = {
        "model": {k: cfg.model[k] for k in ("name", "path", "revision", "variant")},
        "export": "full" if full else "lora" if lora else "token",
        "subject": {k: cfg.subject[k] for k in ("name", "class_noun", "live")},
        "subject_phrase": cfg.subject_phrase,
        "photos": [str(p.resolve()) for p in paths],
        "best_step": None,
    }
    if curve is not None:
        curve.finish(sum(p.max_steps for p in cfg.method.phases), loggers)
        phases["curve"] = {"seconds": round(curve.seconds, 2)}
        if cfg.checkpoint.best is not None:
            record["best_step"] = curve.load_best()
    with costs.stage("export") as places:
        snippet = job.export(model, lora is not None, token, full, folder / "model")
        places.append(folder / "model")
    with costs.stage("samples") as places:
        samples.draw("final")
        places.append(folder / "samples")
    _record(folder, record, phases, costs)  # finished, whatever becomes of the scores
    scores = _scores(cfg, evaluation, model, folder, paths, costs, loggers)
    total = _record(folder, record, phases, costs)
    finish(loggers, {**total, **(summary_of(scores) if scores else {})}, folder)
    closing_summary(folder, snippet, cfg.subject_phrase, cfg.class_prompt, total, scores)
    return 0


def _record(folder: Path, record: dict, phases: dict, costs: Costs) -> dict:
    total = {**costs.totals, "bytes_written": bytes_of([folder])}
    total |= {**phases, "stages": costs.stages}
    write_json(folder / "run.json", {**record, "costs": total})
    return total


def _scores(
    cfg, settings: Settings | None, model, folder, paths, costs: Costs, loggers
) -> Scores | None:
    """Score the run; what keeps it from that is one warning, for the training is done."""
    if settings is None:
        return None
    try:
        with costs.stage("evaluation") as places:
            encoders = load_encoders(
                settings.encoders, settings.metrics, compose.device(cfg), settings.encoders_dir,
                cfg.cache_dir,
            )  # fmt: skip
            images = folder / "evaluation" / settings.name
            scores, record = score_model(
                model, folder / "model", compose.sampler(cfg.scheduler),
                compose.sampling(cfg, "sampling"), compose.subject(cfg), settings, paths,
                encoders, images,
            )  # fmt: skip
            places.append(images)
    except (UserError, torch.OutOfMemoryError) as error:
        log.warning(
            "%s; the run is whole, score it later with `python evaluate.py run='%s' "
            "evaluation=%s evaluation.encoders_dir=DIR`.",
            str(error).rstrip("."), folder, settings.name,
        )  # fmt: skip
        return None
    cost = {**costs.totals, "stages": costs.stages}
    write_scores(folder, scores, {**record, "cost": cost})
    log_image_table(loggers, scores, images)
    return scores
