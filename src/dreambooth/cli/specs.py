"""A composed training configuration => the frozen values that a run works with.

Everything that can be refused before the first expensive step is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dreambooth.data.crops import Crops
from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.curve import METRICS
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.model.lora import LoRASettings
from dreambooth.model.textual_inversion import TokenSettings
from dreambooth.model.trainable import Phase
from dreambooth.sampling.samples import SampleSet
from dreambooth.sampling.spec import Sampling
from dreambooth.study.tables import ReportSpec
from dreambooth.training.module import Loss
from dreambooth.training.spec import (
    CheckpointSpec,
    CurveSpec,
    DataSpec,
    HardwareSpec,
    LoggerSpec,
    MethodSpec,
    ModelSpec,
    OptimizerSpec,
    PhaseSpec,
    PriorSpec,
    SamplesSpec,
    SubjectSpec,
    TrainSpec,
)

INFERENCE_DTYPE = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}


def train_spec(cfg: DictConfig) -> TrainSpec:
    """Build the values of one run of train.py.

    Raises:
        UserError: a setting that no run could use, or that this machine cannot; names its key.
    """
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    device = _device(config["trainer"])
    sampling = _sampling(config, config["sampling"], config["scheduler"])
    subject = _subject(config)
    return TrainSpec(
        folder=Path(config["output_dir"]),
        cache_dir=Path(config["cache_dir"]),
        seed=config["seed"],
        model=ModelSpec(**{k: config["model"][k] for k in ("name", "path", "revision", "variant")}),
        subject=subject,
        data=_data(config),
        prior=_prior(config),
        method=_method(config),
        loss=Loss(
            config["prior"]["weight"],
            config["loss"]["min_snr_gamma"],
            config["loss"]["noise_schedule_dtype"],
        ),
        optimizer=_optimizer(cfg, config),
        hardware=HardwareSpec(
            partial(instantiate, config["trainer"]),
            device,
            config["frozen_dtype"],
            config["gradient_checkpointing"],
            config["compile"],
        ),
        checkpoint=CheckpointSpec(**config["checkpoint"], resume=config["resume"]),
        samples=SamplesSpec(
            SampleSet.of_templates(
                config["samples"]["prompts"],
                subject.words,
                config["samples"]["seeds"],
                sampling,
            ),
            config["samples"]["every_n_steps"],
        ),
        sampling=sampling,
        evaluation=evaluation_spec(config["evaluation"]),
        curve=_curve(config),
        logger=_logger(config),
        config=config,
        written=plain(cfg),
    )


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as it is written, references between keys unresolved."""
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    return written


def evaluation_spec(block: Mapping[str, Any]) -> EvaluationSpec | None:
    """Build the scores at the end from an `evaluation/*.yaml` block; None with `evaluation=none`.

    Raises:
        UserError: unknown metrics, networks or prompts, or too few images.
    """
    if block["prompts"] is None:
        return None
    own = {k: v for k, v in block.items() if k not in ("every_n_steps", "curve")}
    return EvaluationSpec(**{**own, "metrics": tuple(own["metrics"])})


def report_spec(cfg: DictConfig) -> ReportSpec:
    """Build what report.py shows."""
    evaluation = cfg.evaluation.name if "evaluation" in cfg else None
    keys = ("other_subjects", "device", "encoders_dir", "cache_dir")
    return ReportSpec(Path(cfg.runs), evaluation, **{key: cfg[key] for key in keys})


def _device(trainer: Mapping[str, Any]) -> str:
    """Return `cuda` where the trainer may use it, else `cpu`.

    Raises:
        UserError: a GPU is asked for, and PyTorch finds none.
    """
    accelerator, found = trainer["accelerator"], torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not found:
        raise UserError(
            f"trainer.accelerator={accelerator} needs a GPU, and PyTorch finds none here: use "
            "trainer=auto or trainer=cpu."
        )
    return "cuda" if found and accelerator in ("auto", "gpu", "cuda") else "cpu"


def _sampling(
    config: Mapping[str, Any], block: Mapping[str, Any], sampler: Mapping[str, Any]
) -> Sampling:
    """Build a sampler from its block and a `scheduler/*.yaml` block; all share one batch size."""
    sampling = Sampling(
        sampler["name"],
        block["num_inference_steps"],
        block["guidance_scale"],
        config["resolution"],
        config["sampling"]["batch_size"],
        options=sampler["options"],
        dtype=config["sampling"]["dtype"] or INFERENCE_DTYPE[config["trainer"]["precision"]],
    )
    sampling.check()
    return sampling


def _subject(config: Mapping[str, Any]) -> SubjectSpec:
    subject, photos = config["subject"], config["photos"]
    is_of_world = "identity" in subject  # rendered; no dataset holds it
    words = SubjectWords(
        config["subject_phrase"],
        subject["class_noun"],
        config["class_prompt"],
        subject["live"],
    )
    return SubjectSpec(
        subject["name"],
        words,
        config["identifier"],
        config["instance_prompt"],
        subject["photos"],
        None if is_of_world else photos["root"],
        photos["rendered"] if config["model"]["rendered_subjects"] else None,
    )


def _data(config: Mapping[str, Any]) -> DataSpec:
    return DataSpec(
        Crops(config["resolution"], **config["augment"]),
        config["batch_size"],
        config["prior"]["batch_size"],
        config["pairing"],
        config["loss"]["noise_offset"],
    )


def _prior(config: Mapping[str, Any]) -> PriorSpec | None:
    """Build the class images' settings, checked even where they are not used."""
    prior = config["prior"]
    spec = PriorSpec(
        prior["num_class_images"],
        prior["images_dir"],
        prior["seed"],
        _sampling(config, prior, prior["sampler"]),
    )
    return spec if config["ppl"] and config["method"]["uses_prior"] else None


def _method(config: Mapping[str, Any]) -> MethodSpec:
    """Build the phases with their adapters and token.

    Raises:
        UserError: a phase that trains nothing or an unknown part, or settings that it lacks.
    """
    method = config["method"]
    lora = None if method["lora"] is None else LoRASettings(**method["lora"])
    token = None if method["token"] is None else TokenSettings(**method["token"])
    phases = []
    for number, phase in enumerate(method["phases"]):
        parts = Phase(phase["unet"], phase["text_encoder"])
        if "lora" in (parts.unet, parts.text_encoder) and lora is None:
            raise UserError(
                f"method.phases[{number}] trains lora, and method.lora has no settings: set "
                "method.lora to rank, alpha, dropout and targets."
            )
        if parts.text_encoder == "token" and token is None:
            raise UserError(
                f"method.phases[{number}] trains a token, and method.token has no settings: set "
                "method.token to token, initializer and num_vectors."
            )
        phases.append(PhaseSpec(parts, phase["lr"], phase["max_steps"]))
    return MethodSpec(tuple(phases), lora, token)


def _optimizer(cfg: DictConfig, config: Mapping[str, Any]) -> OptimizerSpec:
    """Build the optimizer's factory, and try it and the schedule on one small parameter.

    Raises:
        UserError: an optimizer or a schedule that cannot be made.
    """
    optimizer = cfg.optimizer
    if config["trainer"]["precision"] == "16-mixed" and optimizer.get("fused"):
        # a fused one cannot unscale half-precision gradients
        optimizer = OmegaConf.merge(optimizer, {"fused": False})
    factory = instantiate(optimizer, _convert_="all")
    rate = config["lr"]
    try:
        made = factory([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate}], lr=rate)
    except Exception as error:  # each optimizer has checks of its own
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"optimizer={config['optimizer']['_target_']} cannot be made with these settings "
            f"({reason}): correct the optimizer.* keys."
        ) from error
    warmup, steps = config["lr_warmup_steps"], config["max_steps"]
    get_scheduler(config["lr_schedule"], made, num_warmup_steps=warmup, num_training_steps=steps)
    return OptimizerSpec(
        factory,
        config["text_encoder_lr"],
        config["lr_schedule"],
        warmup,
        config["max_grad_norm"],
        config["accumulate"],
        config["ema_decay"],
    )


def _curve(config: Mapping[str, Any]) -> CurveSpec | None:
    """Build the scores while training; None where none were asked for.

    Raises:
        UserError: `checkpoint.best` without a curve or by an unknown rule.
    """
    block, best = config["evaluation"], config["checkpoint"]["best"]
    every = block["every_n_steps"]
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise UserError(f"evaluation.every_n_steps={every} must be a whole number, 0 or greater.")
    if best not in (None, "harmonic"):
        raise UserError(f"checkpoint.best={best} is not a rule: use harmonic or null.")
    if best and not every:
        raise UserError("checkpoint.best needs a curve: set evaluation.every_n_steps, such as 50.")
    if not every:
        return None
    keys = ("class_seed", "encoders", "encoders_dir")
    shared = {key: block[key] for key in keys}
    return CurveSpec(EvaluationSpec("curve", **block["curve"], **shared, metrics=METRICS), every)


def _logger(config: Mapping[str, Any]) -> LoggerSpec:
    folder, block = Path(config["output_dir"]), config["logger"]
    named = [config[group]["name"] for group in ("subject", "model", "method")]
    return LoggerSpec(
        block["wandb"],
        block["project"],
        folder.name[:120],
        block["group"] or folder.parent.name,
        (*named, *block["tags"]),
    )
