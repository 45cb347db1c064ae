"""Inference samplers: diffusers' own, on the model's own noise schedule."""

from __future__ import annotations

import importlib

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
    scheduler = getattr(importlib.import_module("diffusers"), name)
    return scheduler.from_config(noise_config, **options)


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
