"""The forward diffusion process on tensors: noisy latents, targets, signal-to-noise ratio.

`alphas_cumprod` is the model's noise schedule in float32. diffusers' own `add_noise` casts it to
half precision, which leaves no noise at all at the first timesteps.
"""

from __future__ import annotations

from torch import Tensor


def _per_sample(alphas_cumprod: Tensor, timesteps: Tensor, like: Tensor) -> Tensor:
    """Pick alpha_bar of each sample, shaped to broadcast: `[N]` => `[N,1,1,1]`."""
    picked = alphas_cumprod.to(like.device)[timesteps]
    return picked.reshape(-1, *([1] * (like.ndim - 1)))


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Draw from q(z_t | z_0) (Ho et al. 2020, eq. 4), in float32.

        z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) noise

    Args:
        latents, noise: z_0 and standard normal numbers, `[N,C,h,w]`.
        timesteps: `[N]`, integers in [0, T).
        alphas_cumprod: alpha_bar, `[T]` float32.

    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)  # sqrt(0.64) x 1 + sqrt(0.36) x 2 = 2
    >>> round(add_noise(one, 2 * one, torch.tensor([1]), torch.tensor([1.0, 0.64])).item(), 4)
    2.0
    """
    a = _per_sample(alphas_cumprod, timesteps, latents)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Compute the velocity (Salimans & Ho 2022, appendix D); shapes as in `add_noise`.

        v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) z_0

    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)  # sqrt(0.64) x 2 - sqrt(0.36) x 1 = 1
    >>> round(velocity(one, 2 * one, torch.tensor([1]), torch.tensor([1.0, 0.64])).item(), 4)
    1.0
    """
    a = _per_sample(alphas_cumprod, timesteps, latents)
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def target(
    prediction_type: str, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """Return what the denoiser should predict, `[N,C,h,w]`: the noise, or the velocity.

    Raises:
        ValueError: a prediction type other than `epsilon` and `v_prediction`.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return velocity(latents, noise, timesteps, alphas_cumprod)
    raise ValueError(f"prediction_type {prediction_type!r} is neither epsilon nor v_prediction")


def snr(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Compute the signal-to-noise ratio of each sample, `[N]` (Hang et al. 2023, section 3).

        snr_t = alpha_bar_t / (1 - alpha_bar_t)

    >>> import torch
    >>> snr(torch.tensor([0, 1]), torch.tensor([0.75, 0.5])).tolist()
    [3.0, 1.0]
    """
    a = alphas_cumprod.to(timesteps.device)[timesteps]
    return a / (1 - a)
