"""From a composed training config to the plain values and objects that the stages take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from dreambooth.data.batches import KeyedBatches
from dreambooth.data.prompts import fill
from dreambooth.errors import UserError
from dreambooth.evaluation import curve
from dreambooth.evaluation.evaluate import Settings, Subject, items_of
from dreambooth.files import cache_key, file_hash
from dreambooth.model.lora import LoRASettings
from dreambooth.model.settings import build
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.textual_inversion import TokenSettings
from dreambooth.sampling.draw import Sampling
from dreambooth.study.runs import Run
from dreambooth.training import distributed, stages
from dreambooth.training.loggers import make_loggers
from dreambooth.training.module import Optimization

# what a training result depends on; the rest may change when a run is resumed
TRAINING_KEYS = (
    "seed",
    "ppl",
    "lr",
    "train_text_encoder",
    "text_encoder_lr",
    "instance_prompt",
    "class_prompt",
    "resolution",
    "augment",
    "batch_size",
    "accumulate",
    "pairing",
    "prior",
    "loss",
    "lr_schedule",
    "lr_warmup_steps",
    "max_grad_norm",
    "ema_decay",
    "optimizer",
    "frozen_dtype",
)


def check_here(cfg: DictConfig) -> None:
    """Refuse what only this machine and its libraries can judge, before any work.

    Raises:
        UserError: a GPU that is not there, or a sampler that cannot be made.
    """
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={cfg.trainer.accelerator} needs a GPU, and PyTorch finds none "
            "here: use trainer=auto or trainer=cpu."
        )
    sampler(cfg.scheduler).check(cfg.sampling.num_inference_steps)
    sampler(cfg.prior.sampler).check(cfg.prior.num_inference_steps)


def device(cfg: DictConfig) -> str:
    """`cuda` where the trainer may use it, else `cpu`."""
    gpu = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    return "cuda" if gpu else "cpu"


def lora_and_token(cfg: DictConfig) -> tuple[LoRASettings | None, TokenSettings | None]:
    """The method's adapters and new word, where it has them."""
    method = OmegaConf.to_container(cfg.method, resolve=True)
    lora, token = method["lora"], method["token"]
    return (
        None if lora is None else build(LoRASettings, "method.lora", lora),
        None if token is None else build(TokenSettings, "method.token", token),
    )


def sampler(node: DictConfig) -> stages.Sampler:
    """A `scheduler/*.yaml` block."""
    return stages.Sampler(node.name, dict(node.options))


def drawing_of(cfg: DictConfig, run: Run) -> tuple[stages.Sampler, Sampling]:
    """A finished run's sampler and sampling, but for what the command gives instead.

    Raises:
        UserError: a sampler that cannot be made.
    """
    names = ("num_inference_steps", "guidance_scale", "batch_size")
    drawn = replace(run.sampling, **{name: cfg[name] for name in names if cfg[name] is not None})
    chosen = sampler(cfg.scheduler) if "scheduler" in cfg else run.sampler
    chosen.check(drawn.num_inference_steps)
    return chosen, drawn


def sampling(cfg: DictConfig, block: str) -> Sampling:
    """`prior` and `sampling` share resolution and batch size."""
    return Sampling(
        cfg[block].num_inference_steps,
        cfg[block].guidance_scale,
        cfg.resolution,
        cfg.sampling.batch_size,
    )


def loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """CSV, and W&B where asked."""
    group = cfg.logger.group or folder.parent.name
    tags = [cfg.subject.name, cfg.model.name, cfg.method.name, *cfg.logger.tags]
    config = OmegaConf.to_container(cfg, resolve=True)
    name = folder.name if len(folder.name) <= 120 else folder.name[:120]
    wandb = cfg.logger.wandb and distributed.is_first()
    return make_loggers(folder, wandb, cfg.logger.project, name, group, tags, config)


def samples(cfg: DictConfig, model: LatentDiffusion, folder: Path) -> stages.Samples:
    """The fixed prompts and seeds drawn before, during and after training."""
    templates = list(cfg.samples.prompts)
    return stages.Samples(
        model,
        sampler(cfg.scheduler),
        sampling(cfg, "sampling"),
        [fill(t, None, cfg.subject_phrase) for t in templates],
        [fill(t, None, cfg.subject.class_noun) for t in templates],
        list(cfg.samples.seeds),
        folder / "samples",
    )


def prompts(cfg: DictConfig, drawn: stages.Samples, scored: Settings | None) -> list[str]:
    """Every prompt of a run: trained on, drawn, scored."""
    items = items_of(scored, subject(cfg)) if scored else []
    return [cfg.instance_prompt, cfg.class_prompt, *drawn.prompts, *(i.prompt for i in items)]


def optimization(cfg: DictConfig, phase: DictConfig) -> Optimization:
    """A phase's optimizer and schedule; a fused one cannot unscale half-precision gradients."""
    optimizer = cfg.optimizer
    if cfg.trainer.precision == "16-mixed" and optimizer.get("fused"):
        optimizer = OmegaConf.merge(optimizer, {"fused": False})
    text_lr = None if phase.text_encoder == "token" else cfg.text_encoder_lr  # a token's is `lr`
    return Optimization(
        instantiate(optimizer, _convert_="all"),
        phase.lr,
        text_lr,
        cfg.lr_schedule,
        cfg.lr_warmup_steps,
        phase.max_steps,
        cfg.max_grad_norm,
    )


def training_facts(
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
        "class_images": None if batches.prior is None else batches.prior.key,
        "prompts": sorted(set(batches.instance.prompts)),
        "precision": cfg.trainer.precision,
        "devices": str(cfg.trainer.devices),
    }


def subject(cfg: DictConfig) -> Subject:
    """The subject's words."""
    noun = cfg.subject.class_noun
    return Subject(cfg.subject_phrase, noun, cfg.class_prompt, cfg.subject.live)


def evaluation(cfg: DictConfig) -> Settings | None:
    """The scores at the end; None with `evaluation=none`."""
    block = OmegaConf.to_container(cfg.evaluation, resolve=True)
    if block["prompts"] is None:
        return None
    del block["every_n_steps"], block["curve"]
    return Settings(**{**block, "metrics": tuple(block["metrics"])})


def curve_evaluation(cfg: DictConfig) -> Settings | None:
    """The scores while training; None where none were asked for.

    Raises:
        UserError: a curve beside an average; `checkpoint.best` without a curve or by another rule.
    """
    every, best = cfg.evaluation.every_n_steps, cfg.checkpoint.best
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise UserError(f"evaluation.every_n_steps={every} must be a whole number, 0 or greater.")
    if best not in (None, "harmonic"):
        raise UserError(f"checkpoint.best={best} is not a rule: use harmonic or null.")
    if best and not every:
        raise UserError("checkpoint.best needs a curve: set evaluation.every_n_steps, such as 50.")
    if every and cfg.ema_decay is not None:
        raise UserError(
            "A curve scores the weights that train, while ema_decay exports their average: set "
            "evaluation.every_n_steps=0 (and checkpoint.best=null) or ema_decay=null."
        )
    if not every:
        return None
    block = OmegaConf.to_container(cfg.evaluation, resolve=True)
    return Settings(
        "curve",
        **block["curve"],
        class_seed=block["class_seed"],
        metrics=curve.METRICS,
        encoders=block["encoders"],
        encoders_dir=block["encoders_dir"],
    )
