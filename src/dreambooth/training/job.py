"""The whole job: prepare, fine-tune each phase, close; every stage's cost is kept."""

from __future__ import annotations

import json
import logging
import random
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreambooth.cli import specs
from dreambooth.data.batches import Crops, KeyedBatches, encode_examples
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.evaluate import Settings, drawing, items_of
from dreambooth.evaluation.score import load_encoders
from dreambooth.files import write_json
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.trainable import Phase, TrainableWeights
from dreambooth.quoting import quoted, typed
from dreambooth.training import callbacks, distributed, stages
from dreambooth.training.costs import Costs
from dreambooth.training.finish import STOPPED, close
from dreambooth.training.loggers import finish
from dreambooth.training.module import DreamBooth, Loss

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> int:
    """The whole job in `cfg.output_dir`; 0, or 128 + the signal that stopped it."""
    _quiet()
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)  # whatever a library still draws globally is at least repeatable
    folder = Path(cfg.output_dir)
    costs = Costs(_earlier(folder) if cfg.resume is not None else None)
    # refused here, not after the training
    specs.check_here(cfg)
    evaluation, curve_evaluation = specs.evaluation(cfg), specs.curve_evaluation(cfg)
    model = LatentDiffusion.from_pretrained(
        stages.model_path(cfg.model.path), cfg.model.revision, cfg.model.variant
    )
    root = None if "identity" in cfg.subject else cfg.photos.root  # no dataset holds subject=world
    paths = stages.find_photos(
        cfg.subject.name,
        cfg.subject.class_noun,
        cfg.subject.photos,
        root,
        cfg.photos.rendered if cfg.model.rendered_subjects else None,
        cfg.cache_dir,
    )
    model.to(specs.device(cfg)).requires_grad_(False).eval()
    frozen_dtype = getattr(torch, cfg.frozen_dtype)
    weights = TrainableWeights(model, cfg.seed, *specs.lora_and_token(cfg), frozen_dtype)
    batches = _batches(cfg, model, paths, costs)
    samples = specs.samples(cfg, model, folder)
    said = specs.prompts(cfg, samples, evaluation)
    stages.warn_of_unseen_words(cfg.model.path, said, cfg.identifier)
    facts = specs.training_facts(cfg, model, paths, batches)
    starts = _starts(cfg, folder / "checkpoints", facts)
    curve = _curve(cfg, curve_evaluation, weights, paths, folder)
    loggers = specs.loggers(cfg, folder)
    try:
        with costs.stage("training") as places, distributed.same_job(cfg.output_dir):
            places.append(folder / "checkpoints")
            phases, stopped = _train(cfg, starts, weights, batches, loggers, samples, curve)
        if not distributed.is_first():
            return 0
        if stopped is None:
            return close(
                cfg, model, folder, loggers, samples, costs, phases, paths, evaluation, curve
            )
        write_json(folder / STOPPED, costs.record)
        finish(loggers, {}, folder)
    except BaseException:
        if distributed.is_first():
            finish(loggers, {}, folder, failed=True)
        raise
    again = typed(f"hydra.run.dir={quoted(folder)}")
    print(f"\nStopped; everything is saved. Continue with {again}")
    return 128 + stopped


def _earlier(folder: Path) -> dict | None:
    """Costs of this run's sittings before, whether it was stopped or finished."""
    if (folder / STOPPED).exists():
        return json.loads((folder / STOPPED).read_text())
    if (folder / "run.json").exists():
        return json.loads((folder / "run.json").read_text())["costs"]
    return None


def _quiet() -> None:
    """Silence what a user cannot act on."""
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*lr_scheduler.step.*",
        ".*in eval mode at the start of training.*",
    ):
        warnings.filterwarnings("ignore", message)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _batches(
    cfg: DictConfig, model: LatentDiffusion, paths: list[Path], costs: Costs
) -> KeyedBatches:
    """Every photo's latents, and those of the class images where they serve."""
    encode = partial(encode_examples, model, seed=cfg.seed, cache_dir=cfg.cache_dir)
    with costs.stage("latents"):  # before the class images: a bad photo is found at once
        texts = stages.captions(paths, cfg.instance_prompt)
        cut = Crops(cfg.resolution, **cfg.augment)
        instance, prior = encode(paths=paths, prompts=texts, cut=cut), None
    if cfg.ppl and cfg.method.uses_prior:
        with costs.stage("class_images") as places:
            class_paths = stages.prepare_class_images(
                model,
                cfg.class_prompt,
                cfg.prior.num_class_images,
                specs.sampler(cfg.prior.sampler),
                specs.sampling(cfg, "prior"),
                cfg.prior.seed,
                cfg.prior.images_dir,
                cfg.cache_dir,
            )
            places += class_paths
        with costs.stage("class_latents"):
            texts = stages.captions(class_paths, cfg.class_prompt)
            prior = encode(paths=class_paths, prompts=texts, cut=Crops(cfg.resolution))
    for stage, examples in (("latents", instance), ("class_latents", prior)):
        if examples is not None:
            costs.stages[stage]["bytes"] = examples.mean.nbytes + examples.logvar.nbytes
    return KeyedBatches(
        instance,
        prior,
        cfg.batch_size,
        cfg.prior.batch_size,
        model.noise_scheduler.config.num_train_timesteps,
        cfg.seed,
        cfg.loss.noise_offset,
        cfg.pairing,
    )


def _curve(
    cfg: DictConfig,
    settings: Settings | None,
    weights: TrainableWeights,
    paths: list[Path],
    folder: Path,
) -> Curve | None:
    """The curve that was asked for; a run goes on without it, unless it chooses the export."""
    if settings is None:
        return None
    try:
        encoders = load_encoders(
            settings.encoders,
            settings.metrics,
            specs.device(cfg),
            settings.encoders_dir,
            cfg.cache_dir,
        )
    except UserError as error:
        if cfg.checkpoint.best is not None:
            raise
        log.warning("This run has no curve: %s", error)
        return None
    sampler, sampling = specs.sampler(cfg.scheduler), specs.sampling(cfg, "sampling")
    draw, drawn_with = drawing(weights.model, sampler, sampling), asdict(sampler) | asdict(sampling)
    del drawn_with["batch_size"]  # no image depends on it
    before = sum(phase.max_steps for phase in cfg.method.phases[:-1])
    items = items_of(settings, specs.subject(cfg))
    best_after = before if cfg.checkpoint.best is not None else None
    return Curve(weights, draw, items, paths, encoders, folder, best_after, drawn_with)


def _starts(cfg: DictConfig, folder: Path, facts: dict) -> list[tuple[Path, dict, Path | None]]:
    """Each phase's folder, facts and checkpoint; a wrong one is refused before any phase trains."""
    phases = OmegaConf.to_container(cfg.method.phases, resolve=True)
    starts = []
    for number, phase in enumerate(phases):
        steps = phase.pop("max_steps")  # more of them continue a phase, and change what follows it
        place, own = folder / f"phase-{number}", {**facts, "lr": phase.pop("lr"), "phase": phase}
        if "max_steps" in facts:  # of a schedule that bends with them
            own["max_steps"] = steps
        first = number == 0 or cfg.resume in ("auto", None)
        start = stages.starting_point(place, cfg.resume if first else "auto", own, steps)
        starts.append((place, own, start))
        facts = {**facts, f"phase_{number}": {**phase, "lr": own["lr"], "max_steps": steps}}
    return starts


def _train(cfg, starts, *parts) -> tuple[dict, int | None]:
    """Every phase's costs, and the signal that stopped the last of them, if one did."""
    phases, stopped = {}, None
    for number, start in enumerate(starts):
        phases[f"phase_{number}"] = result = _fit(cfg, number, start, *parts)
        stopped = result["stopped"]
        if stopped is not None:
            break
    return phases, stopped


def _fit(cfg, number, start, weights, batches, loggers, samples, curve: Curve | None) -> dict:
    phase = cfg.method.phases[number]
    what = Phase(phase.unet, phase.text_encoder)
    if (what.unet, what.text_encoder) == ("frozen", "token"):
        batches = replace(batches, prior=None)  # a class prompt does not hold the new token
    weights.prepare(what)
    model = weights.model
    if cfg.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if cfg.compile:
        model.unet.compile()
    loss = Loss(cfg.prior.weight, cfg.loss.min_snr_gamma, cfg.loss.noise_schedule_dtype)
    done = sum(p.max_steps for p in cfg.method.phases[:number])
    module = DreamBooth(weights, loss, specs.optimization(cfg, phase), done)
    prompts = {*batches.instance.prompts, *(batches.prior.prompts if batches.prior else ())}
    module.embed_once(prompts)
    extra = []
    if cfg.samples.every_n_steps:
        extra.append(callbacks.EveryNSteps(cfg.samples.every_n_steps, samples.during))
    if curve is not None:
        extra.append(callbacks.EveryNSteps(cfg.evaluation.every_n_steps, curve.during))
    result = stages.fit(
        partial(instantiate, cfg.trainer, logger=loggers, enable_progress_bar=True),
        module,
        batches,
        *start,
        phase.max_steps,
        cfg.accumulate,
        cfg.checkpoint.every_n_steps,
        cfg.checkpoint.keep,
        extra,
        cfg.ema_decay,
    )
    trained = weights.parameters().values()
    return result | {"trained_parameters": sum(p.numel() for p in trained)}
