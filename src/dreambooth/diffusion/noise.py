"""Forward diffusion on tensors, and the keyed randomness that every step draws from.

`alphas_cumprod` is the model's noise schedule in float32: casting it to half precision, as
diffusers' own `add_noise` does, leaves no noise at all at the first timesteps.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on its key alone: `keyed_generator(seed, "noise", step)`.

    CPU, so that the same key draws the same numbers whatever the device and number of ranks.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def keyed_normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Standard normal numbers that depend on the key alone."""
    return torch.randn(shape, generator=keyed_generator(*key))


def _per_sample(alphas_cumprod: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """alpha_bar of each sample, shaped to broadcast: `[N]` => `[N,1,1,1]`."""
    picked = alphas_cumprod.to(like.device)[timesteps]
    return picked.reshape(-1, *([1] * (like.ndim - 1)))


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """q(z_t | z_0): sqrt(a) z_0 + sqrt(1-a) noise (Ho et al. 2020, eq. 4), in float32.

    Args:
        latents, noise: `[N,C,h,w]`.
        timesteps: `[N]`, integers in [0, T).
        alphas_cumprod: `[T]` float32.
    """
    a = _per_sample(alphas_cumprod, timesteps, latents)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """v = sqrt(a) noise - sqrt(1-a) z_0 (Salimans & Ho 2022, appendix D); shapes as `add_noise`."""
    a = _per_sample(alphas_cumprod, timesteps, latents)
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def target(
    prediction_type: str, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """What the U-Net should predict, `[N,C,h,w]`: the noise, or the velocity.

    Raises:
        ValueError: a prediction type other than `epsilon` and `v_prediction`.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return velocity(latents, noise, timesteps, alphas_cumprod)
    raise ValueError(f"prediction_type {prediction_type!r} is neither epsilon nor v_prediction")


def snr(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Signal-to-noise ratio a / (1-a) of each sample, `[N]` (Hang et al. 2023, section 3)."""
    a = alphas_cumprod.to(timesteps.device)[timesteps]
    return a / (1 - a)
