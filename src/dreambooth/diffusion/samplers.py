"""Inference samplers: diffusers' own, on the model's schedule; and SLERP of latents.

Of two families: those of diffusion models, and those of flow-matching models. A sampler of several
steps that diffusers has for both is of the second with the option `use_flow_sigmas`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from dreambooth.errors import UserError

# diffusers looks these classes up whenever it makes a sampler; loaded with everything else, they
# leave scipy.stats out
_COMPATIBLE = DDPMScheduler().compatibles


def make_scheduler(
    name: str, options: Mapping[str, object], noise_config: Mapping[str, object]
) -> SchedulerMixin:
    """Make a diffusers scheduler with the noise schedule that the model was trained on.

    Args:
        name: its class, such as `DDIMScheduler`.
        options: its own options, such as `{"use_karras_sigmas": True}`.
        noise_config: the config of the model's training scheduler: betas, number of timesteps
            and prediction type come from it, so that a sampler never changes them. What is only
            a default there (`_use_default_values`) stays the sampler's own default.
    """
    kind: Any = getattr(diffusers, name)
    config, own = dict(noise_config), {}
    if is_flow(name, options):
        # diffusers warns of what its flow samplers have of each other and this one has not
        known = inspect.signature(kind.__init__).parameters
        config = {k: v for k, v in config.items() if k in known or k.startswith("_")}
    if options.get("use_flow_sigmas"):  # what such a sampler calls a flow's schedule
        own = {"prediction_type": "flow_prediction", "flow_shift": noise_config.get("shift", 1.0)}
    return kind.from_config(config, **{**own, **options})


def is_flow(name: str, options: Mapping[str, object]) -> bool:
    """Tell whether a sampler with these options is for flow-matching models.

    >>> is_flow("FlowMatchHeunDiscreteScheduler", {}), is_flow("DDIMScheduler", {})
    (True, False)
    """
    return name.startswith("FlowMatch") or bool(options.get("use_flow_sigmas"))


def require_family(name: str, options: Mapping[str, object], flow: bool) -> None:
    """Refuse a sampler that is not for flow-matching models if `flow`, or is if not.

    Raises:
        UserError: names the sampler and the ones to take.
    """
    if is_flow(name, options) == flow:
        return
    kind, choice = ("a flow-matching", "flow_euler") if flow else ("a diffusion", "ddim")
    raise UserError(
        f"{name} does not sample from {kind} model, which this model is: leave scheduler out, or "
        f"use one such as scheduler={choice}."
    )


def check_scheduler(name: str, options: Mapping[str, object], num_inference_steps: int) -> None:
    """Refuse what `make_scheduler` cannot make, or what cannot take that many steps.

    Raises:
        ValueError: no such sampler, one of neither family, one whose noise would not be that of an
            image's seed, no such option, or a value that the sampler refuses.
    """
    names = sorted(each for each in dir(diffusers) if each.endswith("Scheduler"))
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "give a class such as DDIMScheduler."
        raise ValueError(f"diffusers has no sampler {name}: {hint}")
    of_diffusion = "DDPMScheduler" in getattr(getattr(diffusers, name), "_compatibles", ())
    if not of_diffusion and not is_flow(name, options):
        raise ValueError(
            f"{name} does not sample from a model that can be trained here: use one such as "
            "DDIMScheduler, or FlowMatchEulerDiscreteScheduler for flow matching."
        )
    known = set(inspect.signature(getattr(diffusers, name).__init__).parameters)
    if unknown := sorted(set(options) - known):
        raise ValueError(f"{name} has no option {unknown[0]}: see its page in diffusers' docs.")
    if is_flow(name, options) and _adds_noise(name, options):
        raise ValueError(
            f"{name} with options={dict(options)} draws noise that the pipelines of flow-matching "
            "models do not seed: use FlowMatchEulerDiscreteScheduler without stochastic_sampling."
        )
    try:
        scheduler: Any = make_scheduler(name, options, {})
        scheduler.set_timesteps(num_inference_steps)
    except Exception as error:  # each sampler has checks of its own
        reason = " ".join(str(error).split())
        chosen = f"{name} with num_inference_steps={num_inference_steps} and options={options}"
        raise ValueError(f"{chosen} cannot work ({reason}): choose other values.") from error


def _adds_noise(name: str, options: Mapping[str, object]) -> bool:
    is_sde = str(options.get("algorithm_type", "")).startswith("sde")
    return name == "FlowMatchLCMScheduler" or bool(options.get("stochastic_sampling")) or is_sde


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """Interpolate two latents of any shape on the sphere (Shoemake 1985), each taken as one vector.

        slerp(a, b, t) = (sin((1 - t) w) a + sin(t w) b) / sin(w),  cos(w) = a.b / (|a| |b|)

    Nearly parallel latents, whose angle is not defined, are interpolated linearly.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)  # (1, 1) / sqrt(2)
    tensor([0.7071, 0.7071])
    """
    a, b = start.flatten().double(), end.flatten().double()
    cosine = torch.dot(a, b) / (a.norm() * b.norm())
    if cosine.abs() > 0.9995:
        mixed = (1 - fraction) * a + fraction * b
    else:
        angle = cosine.acos()
        mixed = ((1 - fraction) * angle).sin() * a + (fraction * angle).sin() * b
        mixed = mixed / angle.sin()
    return mixed.reshape(start.shape).to(start.dtype)
