"""Inference samplers: diffusers' own, on the model's own noise schedule."""

from __future__ import annotations

import inspect
from difflib import get_close_matches

import diffusers
import torch
from torch import Tensor


def make_scheduler(name: str, options: dict, noise_config: dict):
    """A diffusers scheduler by class name, with the noise schedule the model was trained on.

    Args:
        name: such as `DDIMScheduler`.
        options: of the sampler itself, such as `{"use_karras_sigmas": True}`.
        noise_config: the config of the model's training scheduler: betas, number of timesteps
            and prediction type come from it, so that a sampler never changes them. What is a
            mere default there (`_use_default_values`) stays the sampler's own default.
    """
    return getattr(diffusers, name).from_config(noise_config, **options)


def check_scheduler(name: str, options: dict, num_inference_steps: int) -> None:
    """Refuse what `make_scheduler` could not make, or could not take that many steps of.

    Raises:
        ValueError: no such sampler, no such option, or a value that the sampler refuses.
    """
    names = sorted(each for each in dir(diffusers) if each.endswith("Scheduler"))
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "give a class such as DDIMScheduler."
        raise ValueError(f"diffusers has no sampler {name}: {hint}")
    known = set(inspect.signature(getattr(diffusers, name).__init__).parameters)
    if unknown := sorted(set(options) - known):
        raise ValueError(f"{name} has no option {unknown[0]}: see diffusers' own description.")
    try:
        make_scheduler(name, options, {}).set_timesteps(num_inference_steps)
    except Exception as error:  # each sampler has checks of its own
        reason = " ".join(str(error).split())
        chosen = f"{name} with num_inference_steps={num_inference_steps} and options={options}"
        raise ValueError(f"{chosen} cannot work ({reason}): choose other values.") from error


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """Spherical interpolation of two latents of any shape (Shoemake 1985), flattened.

    Nearly parallel latents, whose angle is not defined, are interpolated linearly.
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
