"""From a composed training config to a finished run: build every piece, then call the stages."""

from __future__ import annotations

import logging
import random
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreambooth import callbacks, job, ranks
from dreambooth.cache import cache_key, file_hash, write_json
from dreambooth.data.datamodule import Crops, KeyedBatches, encode_examples
from dreambooth.data.prompts import fill
from dreambooth.generate import Sampling
from dreambooth.loggers import finish, make_loggers
from dreambooth.model.latent_diffusion import LatentDiffusion
from dreambooth.model.lora import LoRASettings
from dreambooth.model.new_token import TokenSettings
from dreambooth.model.trainable import Phase, prepare, trainable_parameters
from dreambooth.module import DreamBooth, Loss, Optimization
from dreambooth.summary import closing_summary

log = logging.getLogger(__name__)

# what a training result depends on; the rest may change when a run is resumed
TRAINING_KEYS = (
    "seed", "ppl", "lr", "train_text_encoder", "text_encoder_lr", "instance_prompt",
    "class_prompt", "resolution", "augment", "batch_size", "accumulate", "pairing", "prior",
    "loss", "lr_schedule", "lr_warmup_steps", "max_grad_norm", "ema_decay", "optimizer",
)  # fmt: skip


def run(cfg: DictConfig) -> int:
    """The whole job in `cfg.output_dir`; 0, or 128 + the signal that stopped it."""
    _quiet()
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)  # whatever a library still draws globally is at least repeatable
    started, folder = time.monotonic(), Path(cfg.output_dir)
    model = LatentDiffusion.from_pretrained(
        job.model_path(cfg.model.path), cfg.model.revision, cfg.model.variant
    )
    paths = job.find_photos(
        cfg.subject.name, cfg.subject.class_noun, cfg.subject.photos, cfg.photos.root,
        cfg.photos.rendered if cfg.model.rendered_subjects else None, cfg.cache_dir,
    )  # fmt: skip
    model.to(_device(cfg)).requires_grad_(False).eval()
    batches = _batches(cfg, model, paths)
    loggers = _loggers(cfg, folder)
    samples = _samples(cfg, model, folder)
    facts = _facts(cfg, model, paths, batches)
    costs = {"preparation_seconds": round(time.monotonic() - started, 2)}
    result = {}
    with ranks.same_job(cfg.output_dir):
        for number, phase in enumerate(cfg.method.phases):
            costs[f"phase_{number}"] = result = _fit(
                cfg, number, phase, model, batches, folder, facts, loggers, samples
            )
            if result["stopped"]:
                break
    if not ranks.is_first():
        return 0
    if result["stopped"]:
        finish(loggers, {}, folder)
        print(f"\nStopped; everything is saved. Continue with hydra.run.dir={folder}")
        return 128 + result["stopped"]
    return _close(cfg, model, folder, loggers, samples, costs, started, paths)


def _device(cfg: DictConfig) -> str:
    gpu = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    return "cuda" if gpu else "cpu"


def _quiet() -> None:
    """Silence what a user cannot act on."""
    for message in (
        ".*does not have many workers.*", ".*LeafSpec.*", ".*lr_scheduler.step.*",
        ".*in eval mode at the start of training.*",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _settings(cfg: DictConfig) -> tuple[LoRASettings | None, TokenSettings | None]:
    lora, token = (OmegaConf.to_container(cfg.method, resolve=True)[k] for k in ("lora", "token"))
    if lora is not None:
        lora = LoRASettings(**{**lora, "targets": tuple(lora["targets"])})
    return lora, None if token is None else TokenSettings(**token)


def _sampling(cfg: DictConfig, block: str) -> Sampling:
    """`prior` and `sampling` share resolution and batch size."""
    return Sampling(
        cfg[block].num_inference_steps, cfg[block].guidance_scale, cfg.resolution,
        cfg.sampling.batch_size,
    )  # fmt: skip


def _batches(cfg: DictConfig, model: LatentDiffusion, paths: list[Path]) -> KeyedBatches:
    """Class images where they serve, then every photo's latents."""
    cut = Crops(cfg.resolution, **cfg.augment)
    encode = partial(encode_examples, model, seed=cfg.seed, cache_dir=cfg.cache_dir)
    texts = job.captions(paths, cfg.instance_prompt)
    instance, prior = encode(paths=paths, prompts=texts, cut=cut), None
    if cfg.ppl and cfg.method.uses_prior:
        class_paths = job.prepare_class_images(
            model, cfg.class_prompt, cfg.prior.num_class_images,
            job.Sampler(cfg.prior.sampler.name, dict(cfg.prior.sampler.options)),
            _sampling(cfg, "prior"), cfg.prior.seed, cfg.prior.images_dir, cfg.cache_dir,
        )  # fmt: skip
        class_texts = job.captions(class_paths, cfg.class_prompt)
        prior = encode(paths=class_paths, prompts=class_texts, cut=Crops(cfg.resolution))
    return KeyedBatches(
        instance, prior, cfg.batch_size, cfg.prior.batch_size,
        model.noise_scheduler.config.num_train_timesteps, cfg.seed,
        cfg.loss.noise_offset, cfg.pairing,
    )  # fmt: skip


def _loggers(cfg: DictConfig, folder: Path) -> list:
    group = cfg.logger.group or folder.parent.name
    tags = [cfg.subject.name, cfg.model.name, cfg.method.name, *cfg.logger.tags]
    config = OmegaConf.to_container(cfg, resolve=True)
    name = folder.name if len(folder.name) <= 120 else folder.name[:120]
    return make_loggers(folder, cfg.logger.wandb, cfg.logger.project, name, group, tags, config)


def _samples(cfg: DictConfig, model: LatentDiffusion, folder: Path) -> job.Samples:
    templates = list(cfg.samples.prompts)
    return job.Samples(
        model,
        job.Sampler(cfg.scheduler.name, dict(cfg.scheduler.options)),
        _sampling(cfg, "sampling"),
        [fill(t, None, cfg.subject_phrase) for t in templates],
        [fill(t, None, cfg.subject.class_noun) for t in templates],
        list(cfg.samples.seeds),
        folder / "samples",
    )


def _facts(
    cfg: DictConfig, model: LatentDiffusion, paths: list[Path], batches: KeyedBatches
) -> dict:
    """What the trained weights depend on, as plain values that a user can compare."""
    resolved = OmegaConf.to_container(cfg, resolve=True)
    facts = {key: resolved[key] for key in TRAINING_KEYS}
    if cfg.lr_schedule != "constant":
        facts["max_steps"] = cfg.max_steps  # a schedule bends with the number of steps
    return facts | {
        "model": model.weights_hash(),
        "method": {k: v for k, v in resolved["method"].items() if k != "phases"},
        "photos": cache_key(hashes=[file_hash(p) for p in paths]),
        "prompts": sorted(set(batches.instance.prompts)),
        "precision": cfg.trainer.precision,
        "devices": str(cfg.trainer.devices),
    }


def _fit(cfg, number, phase, model, batches, folder, facts, loggers, samples) -> dict:
    lora, token = _settings(cfg)
    frozen_dtype = getattr(torch, cfg.frozen_dtype)
    what = Phase(phase.unet, phase.text_encoder)
    if (what.unet, what.text_encoder) == ("frozen", "token"):
        batches = replace(batches, prior=None)  # a class prompt does not hold the new token
    prepare(model, what, lora, token, cfg.seed, frozen_dtype)
    if cfg.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if cfg.compile:
        model.unet.compile()
    loss = Loss(cfg.prior.weight, cfg.loss.min_snr_gamma, cfg.loss.noise_schedule_dtype)
    done = sum(p.max_steps for p in cfg.method.phases[:number])
    module = DreamBooth(model, loss, _optimization(cfg, phase), done)
    prompts = {*batches.instance.prompts, *(batches.prior.prompts if batches.prior else ())}
    module.embed_once(prompts)
    every, extra = cfg.samples.every_n_steps, []
    if every:
        extra.append(callbacks.EveryNSteps(every, samples.during))
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


def _optimization(cfg: DictConfig, phase: DictConfig) -> Optimization:
    optimizer = cfg.optimizer
    if cfg.trainer.precision == "16-mixed" and optimizer.get("fused"):
        optimizer = OmegaConf.merge(optimizer, {"fused": False})
    return Optimization(
        instantiate(optimizer), phase.lr, cfg.text_encoder_lr, cfg.lr_schedule,
        cfg.lr_warmup_steps, phase.max_steps, cfg.max_grad_norm,
    )  # fmt: skip


def _close(cfg, model, folder, loggers, samples, costs, started, paths) -> int:
    """Export, final samples, costs and the closing words."""
    model.to(_device(cfg))
    full = any("full" in (p.unet, p.text_encoder) for p in cfg.method.phases)
    lora, token = _settings(cfg)
    snippet = job.export(model, lora is not None, token, full, folder / "model")
    samples.draw("final")
    costs |= {
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_gib": round(callbacks.peak_memory_gib(), 3),
        "bytes_written": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
    }
    record = {
        "model": {k: cfg.model[k] for k in ("name", "path", "revision", "variant")},
        "export": "full" if full else "lora" if lora else "token",
        "subject": {k: cfg.subject[k] for k in ("name", "class_noun", "live")},
        "subject_phrase": cfg.subject_phrase,
        "photos": [str(p.resolve()) for p in paths],
        "costs": costs,
    }
    write_json(folder / "run.json", record)
    finish(loggers, costs, folder)
    closing_summary(folder, snippet, cfg.subject_phrase, cfg.class_prompt, costs)
    return 0
