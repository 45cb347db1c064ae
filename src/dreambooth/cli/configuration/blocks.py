"""Blocks of a training configuration as the frozen values that a run works with, each checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dreambooth.cli.configuration.factories import check_schedule, optimizer_factory
from dreambooth.data.templates import templates
from dreambooth.diffusion.flow import TimestepSettings
from dreambooth.diffusion.samplers import is_flow
from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.phases import Phase
from dreambooth.model.settings import build, require_number
from dreambooth.model.textual_inversion import TokenSettings
from dreambooth.sampling.spec import Sampling
from dreambooth.training.output_spec import CheckpointSpec
from dreambooth.training.resuming.checkpoint_records import verify
from dreambooth.training.spec import Loss, MethodSpec, OptimizerSpec, PhaseSpec

Made = TypeVar("Made")

MODE_MOST = 2 / (math.pi - 2)  # above it, the mode density of Esser et al. 2024 is none
INFERENCE_DTYPE = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}


def named(key: str, make: Callable[..., Made], *args: Any, **values: Any) -> Made:
    """Call `make`, and name the key of the configuration in what it refuses."""
    try:
        return make(*args, **values)
    except UserError as error:
        if key in str(error):
            raise
        raise UserError(f"{key}: {error}") from error
    except TypeError as error:  # a field too many, or a value of the wrong type
        raise UserError(f"{key} cannot be used ({error}): correct the {key}.* keys.") from error


def sampling_spec(config: Mapping[str, Any], block: str, sampler: str) -> Sampling:
    """Build a sampler from a block's settings and the scheduler that `sampler` names.

    All samplers of a run share its batch size and dtype.
    """
    settings, scheduler, shared = config[block], config, config["sampling"]
    for part in sampler.split("."):
        scheduler = scheduler[part]
    sampling = Sampling(
        scheduler["name"],
        settings["num_inference_steps"],
        settings["guidance_scale"],
        config["resolution"],
        shared["batch_size"],
        options=scheduler["options"],
        dtype=shared["dtype"] or INFERENCE_DTYPE[config["trainer"]["precision"]],
    )
    named(f"{sampler}.name", sampling.require_family, is_flow_model(config))
    named(f"{sampler}.name", sampling.check)
    return sampling


def is_flow_model(config: Mapping[str, Any]) -> bool:
    """Tell whether a run's model is trained by flow matching, as its own sampler says."""
    own = config["model"]["prior_sampler"]
    return is_flow(own["name"], own["options"])


def loss_spec(config: Mapping[str, Any]) -> Loss:
    """Build the loss.

    Raises:
        UserError: a setting of flow matching for a diffusion model, or the reverse.
    """
    block, prior, name = config["loss"], config["prior"], config["model"]["name"]
    if is_flow_model(config):
        for key, off in (
            ("min_snr_gamma", None),
            ("noise_offset", 0),
        ):
            if block[key] != off:
                raise UserError(
                    f"loss.{key}={block[key]} belongs to a diffusion model's noise schedule, and "
                    f"model={name} is trained by flow matching: set it to "
                    f"{'null' if off is None else off}, and see loss.timesteps and loss.weighting."
                )
    else:
        for key, off in (("timesteps", "uniform"), ("weighting", "none")):
            if block[key] != off:
                raise UserError(
                    f"loss.{key}={block[key]} is for models that are trained by flow matching, "
                    f"such as sd35_medium, and model={name} is a diffusion model: set it to {off}."
                )
    return Loss(
        prior["weight"],
        block["min_snr_gamma"],
        block["noise_schedule_dtype"],
        prior["weight_schedule"],
        prior["weight_end"],
        block["weighting"],
    )


def timestep_settings(block: Mapping[str, Any]) -> TimestepSettings:
    """Build how training chooses noise levels, from the block `loss`.

    Raises:
        UserError: a value that is out of its range.
    """
    finite = math.isfinite
    for key, described, holds in (
        ("logit_mean", "that is finite", finite),
        ("logit_std", "greater than 0", lambda x: finite(x) and x > 0),
        ("mode_scale", f"from -1 to {MODE_MOST:.2f}", lambda x: -1 <= x <= MODE_MOST),
    ):
        require_number(f"loss.{key}", block[key], holds, described)
    if block["shift"] is not None:
        if block["timesteps"] != "shifted":
            raise UserError(
                f"loss.shift={block['shift']} has no effect with loss.timesteps="
                f"{block['timesteps']}: set loss.timesteps=shifted, or loss.shift=null."
            )
        described = "greater than 0, or null"
        require_number("loss.shift", block["shift"], lambda x: finite(x) and x > 0, described)
    keys = ("logit_mean", "logit_std", "mode_scale", "shift")
    return TimestepSettings(block["timesteps"], *(block[key] for key in keys))


def method_spec(method: Mapping[str, Any]) -> MethodSpec:
    """Build the phases with their adapter and token.

    Raises:
        UserError: a phase that trains nothing or an unknown part, or settings that it lacks.
    """
    if "adapter" not in method:
        raise UserError("the method was written by an earlier version: train the run again.")
    adapter, token = method["adapter"], method["token"]
    if not method["phases"]:
        raise UserError("method.phases is empty: a method trains in one phase or more.")
    phases = [_phase(f"method.phases[{i}]", phase) for i, phase in enumerate(method["phases"])]
    for number, phase in enumerate(phases):
        for kind, settings in (("adapter", adapter), ("token", token)):
            if kind in phase.parts.parts and settings is None:
                raise UserError(
                    f"method.phases[{number}] trains {kind}, and method.{kind} has no settings: "
                    f"choose a method that has them, or set method.{kind}."
                )
    own = {key: value for key, value in (token or {}).items() if key != "templates"}
    return MethodSpec(
        tuple(phases),
        None if adapter is None else AdapterSettings.of_block(adapter),
        None if token is None else build(TokenSettings, "method.token", own, ["templates"]),
        () if token is None else templates(token["templates"]),
    )


def _phase(key: str, phase: Mapping[str, Any]) -> PhaseSpec:
    if {*phase} - {"token_lr"} != {"unet", "text_encoder", "lr", "max_steps"}:
        raise UserError(
            f"{key} must hold unet, text_encoder, lr and max_steps, may hold token_lr, and nothing "
            "else."
        )
    parts = named(key, Phase, phase["unet"], phase["text_encoder"])
    lr, steps, token_lr = phase["lr"], phase["max_steps"], phase.get("token_lr")
    require_number(f"{key}.lr", lr, lambda x: 0 < x < float("inf"), "greater than 0")
    if token_lr is not None:
        require_number(f"{key}.token_lr", token_lr, lambda x: 0 < x < float("inf"), "above 0")
    if not isinstance(steps, int) or steps < 1:
        raise UserError(
            f"{key}.max_steps={steps} is not usable: it must be a whole number, 1 or greater."
        )
    return PhaseSpec(parts, lr, steps, token_lr)


def optimizer_spec(config: Mapping[str, Any]) -> OptimizerSpec:
    """Build the optimizer and its learning-rate schedule.

    Raises:
        UserError: either cannot be made.
    """
    schedule, warmup = config["lr_schedule"], config["lr_warmup_steps"]
    check_schedule(schedule, warmup, config["max_steps"])
    _check_one_rate(config)
    return OptimizerSpec(
        optimizer_factory(config["optimizer"], config["lr"], config["trainer"]["precision"]),
        config["text_encoder_lr"],
        config["text_encoder_stop_step"],
        _loraplus_ratio(config),
        schedule,
        warmup,
        config["max_grad_norm"],
        config["accumulate"],
        config["ema_decay"],
    )


def _loraplus_ratio(config: Mapping[str, Any]) -> float | None:
    """Return the ratio of LoRA+; refuse one for a method without matrices A and B."""
    ratio, adapter = config["loraplus_lr_ratio"], config["method"]["adapter"]
    if ratio is None:
        return None
    if adapter is None or AdapterSettings.of_block(adapter).kind != "LORA":
        raise UserError(
            f"loraplus_lr_ratio={ratio} needs the matrices A and B of a LoRA: set it to null, or "
            "use method=lora or method=dora."
        )
    return ratio


def _check_one_rate(config: Mapping[str, Any]) -> None:
    """Refuse two rates with Prodigy, which finds one for all weights.

    Raises:
        UserError: names the key.
    """
    rate, name = config["text_encoder_lr"], config["optimizer"]["_target_"]
    if name.endswith(".Prodigy") and rate not in (None, config["lr"]):
        raise UserError(
            f"text_encoder_lr={rate} cannot be used with optimizer=prodigy, which finds one rate "
            "for all weights: set it to null."
        )


def checkpoint_spec(config: Mapping[str, Any]) -> CheckpointSpec:
    """Build what is kept and what is resumed.

    Raises:
        UserError: an unknown rule for the best step, a rule without a curve, or a `.ckpt` that is
            not valid.
    """
    block, resume = config["checkpoint"], config["resume"]
    best = block["best"]
    if best not in (None, "harmonic"):
        raise UserError(f"checkpoint.best={best} is not a rule: use harmonic or null.")
    for key in ("best", "patience"):
        if block[key] and not config["evaluation"]["every_n_steps"]:
            raise UserError(
                f"checkpoint.{key} needs a curve: set evaluation.every_n_steps, such as 50."
            )
    if resume not in (None, "auto"):
        verify(resume)
    return CheckpointSpec(**block, resume=resume)
