"""Flow matching on tensors: noisy latents and targets, the noise levels of training, weights.

Noise levels sigma are in (0, 1], 1 is noise alone. They are the t of Esser et al. 2024
(arXiv:2403.03206), whose section 3.1 has the distributions and weights; a model is told T sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SCHEMES = ("uniform", "logit_normal", "mode", "shifted")
WEIGHTINGS = ("none", "sigma_sqrt", "sigma_squared", "cosmap")


def interpolate(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Draw from q(z_sigma | z_0) of a rectified flow (Esser et al. 2024, eq. 13).

        z_sigma = (1 - sigma) z_0 + sigma noise

    Args:
        latents, noise: z_0 and standard normal numbers, `[N,...]`.
        sigmas: `[N]`.

    >>> one = torch.ones(1, 1)
    >>> interpolate(one, 3 * one, torch.tensor([0.25])).item()
    1.5
    """
    per_sample = sigmas.to(latents).reshape(-1, *([1] * (latents.ndim - 1)))
    return (1.0 - per_sample) * latents + per_sample * noise


@dataclass(frozen=True)
class TimestepSettings:
    """How training chooses noise levels; see `conf/train.yaml`, block `loss`.

    `shift` None is that of the model's own sampler.
    """

    scheme: str
    logit_mean: float
    logit_std: float
    mode_scale: float
    shift: float | None


@dataclass(frozen=True)
class FlowTimesteps:
    """Draw timesteps T sigma, float32 in [1, T], with sigma as `settings` ask and `shift`.

    - uniform: sigma ~ U(0, 1).
    - logit_normal: logit(sigma) ~ N(logit_mean, logit_std) (Esser et al. 2024, eq. 19).
    - mode: sigma = 1 - u - mode_scale (cos^2(pi u / 2) - 1 + u), u ~ U(0, 1) (eq. 20).
    - shifted: as logit_normal, then moved to more noise by `shift` (eq. 23).
    """

    settings: TimestepSettings
    shift: float
    count: int

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draw one timestep, `[]`."""
        settings = self.settings
        if settings.scheme in ("logit_normal", "shifted"):
            normal = torch.randn((), generator=generator)
            sigma = torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
        else:
            sigma = torch.rand((), generator=generator)
        if settings.scheme == "mode":
            bend = torch.cos(math.pi * sigma / 2) ** 2 - 1 + sigma
            sigma = 1 - sigma - settings.mode_scale * bend
        if settings.scheme == "shifted":
            sigma = shifted(sigma, self.shift)
        return (self.count * sigma).clamp(1, self.count)


def shifted(sigmas: Tensor, shift: float) -> Tensor:
    """Move noise levels to those that blur an image of more pixels as much (eq. 23).

        shift sigma / (1 + (shift - 1) sigma)

    >>> shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist()
    [0.0, 0.75, 1.0]
    """
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def weights(weighting: str, sigmas: Tensor) -> Tensor:
    """Weigh the squared errors of velocities at noise levels `[N]`.

        none:           1
        sigma_sqrt:     1 / sigma^2
        sigma_squared:  sigma^2, which makes it the error of the clean latents
        cosmap:         2 / (pi - 2 pi sigma + 2 pi sigma^2)  (Esser et al. 2024, eq. 21)

    The names are those of diffusers' `compute_loss_weighting_for_sd3`; it has no `sigma_squared`,
    which is what `--precondition_outputs=1` of its script makes of `none`.

    >>> weights("sigma_sqrt", torch.tensor([0.5, 1.0])).tolist()
    [4.0, 1.0]
    >>> weights("cosmap", torch.tensor([0.5])).mul(math.pi).tolist()
    [4.0]
    """
    if weighting == "sigma_sqrt":
        return sigmas**-2.0
    if weighting == "sigma_squared":
        return sigmas**2.0
    if weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    return torch.ones_like(sigmas)
