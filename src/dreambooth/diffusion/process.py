"""The process that a model was trained on: what a training step and a sampler ask of it.

Diffusion (Ho et al. 2020) and flow matching (Lipman et al. 2023; Liu et al. 2023) answer in the
same words.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from dreambooth.diffusion import flow
from dreambooth.diffusion.flow import FlowTimesteps, TimestepSettings
from dreambooth.diffusion.loss import min_snr_weights
from dreambooth.diffusion.noise import add_noise, snr, target
from dreambooth.diffusion.samplers import make_scheduler, require_family

DrawTimestep = Callable[[torch.Generator], Tensor]


class Process(ABC):
    """How a model's latents become noise, and what its denoiser predicts.

    `scheduler` is the training schedule of the model's folder. Tensors are `[N,C,h,w]`, timesteps
    `[N]`; the result has the dtype of the latents.
    """

    is_flow: ClassVar[bool]

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.num_timesteps: int = scheduler.config["num_train_timesteps"]

    @property
    @abstractmethod
    def prediction_type(self) -> str:
        """What the denoiser was trained to predict: `epsilon`, `v_prediction` or `velocity`."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add standard normal `noise` to clean latents."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser should predict."""

    @abstractmethod
    def timesteps(self, settings: TimestepSettings, tokens: int) -> DrawTimestep:
        """Return what draws the timestep of an example in training, `[]`, from a generator.

        Args:
            tokens: of an image as the denoiser sees it, on which the shift of some models depends.
        """

    @abstractmethod
    def weights(self, timesteps: Tensor, gamma: float | None, weighting: str) -> Tensor | None:
        """Weigh squared errors, `[N]`, by Min-SNR's `gamma` or a `weighting`; None for equal ones.

        Each process has one of the two.
        """

    @abstractmethod
    def level(self, share: float, count: int) -> Tensor:
        """Return timesteps `[count]` at a share of the way from clean latents to noise."""

    def sampler(self, name: str, options: Mapping[str, object]) -> Any:
        """Make diffusers' scheduler `name` on this schedule.

        Raises:
            UserError: it samples from the other kind of model.
        """
        require_family(name, options, self.is_flow)
        return make_scheduler(name, options, dict(self.scheduler.config))


class Diffusion(Process):
    """Denoising diffusion on a schedule alpha_bar, `[T]` float32."""

    is_flow = False

    def __init__(self, scheduler: DDPMScheduler) -> None:
        super().__init__(scheduler)
        self.alphas_cumprod = scheduler.alphas_cumprod.float()

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""
        return self.scheduler.config["prediction_type"]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Draw from q(z_t | z_0); see `noise.add_noise`."""
        return add_noise(latents, noise, timesteps, self._schedule(latents))

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise, or the velocity."""
        schedule = self._schedule(latents)
        return target(self.prediction_type, latents, noise, timesteps, schedule)

    def timesteps(self, settings: TimestepSettings, tokens: int) -> DrawTimestep:
        """Draw uniformly from 0 to T - 1."""
        return UniformTimesteps(self.num_timesteps)

    def weights(self, timesteps: Tensor, gamma: float | None, weighting: str) -> Tensor | None:
        """Weigh by Min-SNR (Hang et al. 2023), if it has a gamma."""
        if gamma is None:
            return None
        return min_snr_weights(snr(timesteps, self.alphas_cumprod), gamma, self.prediction_type)

    def level(self, share: float, count: int) -> Tensor:
        """Return the timestep at a share of T."""
        return torch.full((count,), int(share * self.num_timesteps))

    def _schedule(self, like: Tensor) -> Tensor:
        """Return alpha_bar in the dtype of the latents, kept on their device."""
        if self.alphas_cumprod.device != like.device:
            self.alphas_cumprod = self.alphas_cumprod.to(like.device)
        return self.alphas_cumprod.to(like.dtype)


class FlowMatching(Process):
    """A rectified flow: straight lines from latents to noise, whose velocity is predicted."""

    is_flow = True

    @property
    def prediction_type(self) -> str:
        """`velocity`: noise - latents."""
        return "velocity"

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Go the share timestep / T of the line from the latents to the noise."""
        return flow.interpolate(latents, noise, self._sigmas(timesteps))

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity along the line, noise - latents."""
        return noise - latents

    def timesteps(self, settings: TimestepSettings, tokens: int) -> DrawTimestep:
        """Draw as `settings` ask, with their shift or the sampler's own."""
        shift = self.shift(tokens) if settings.shift is None else settings.shift
        return FlowTimesteps(settings, shift, self.num_timesteps)

    def weights(self, timesteps: Tensor, gamma: float | None, weighting: str) -> Tensor | None:
        """Weigh by the noise level; see `flow.weights`."""
        return None if weighting == "none" else flow.weights(weighting, self._sigmas(timesteps))

    def level(self, share: float, count: int) -> Tensor:
        """Return T x share."""
        return torch.full((count,), share * self.num_timesteps)

    def shift(self, tokens: int) -> float:
        """Return the shift of the model's sampler at a number of image tokens.

        It is a constant, or with `use_dynamic_shifting` grows with the tokens, as in diffusers'
        `calculate_shift`.
        """
        config = self.scheduler.config
        if not config["use_dynamic_shifting"]:
            return config["shift"]
        least, most = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (most - least)
        mu = config["base_shift"] + slope * (tokens - least)
        return math.exp(mu) if config["time_shift_type"] == "exponential" else mu

    def _sigmas(self, timesteps: Tensor) -> Tensor:
        return timesteps / self.num_timesteps


@dataclass(frozen=True)
class UniformTimesteps:
    """Draw a timestep from 0 to `count` - 1, int64 `[]`."""

    count: int

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draw one."""
        return torch.randint(self.count, (), generator=generator)


def process_of(scheduler: Any) -> Process:
    """Tell the process by the training schedule of a model's folder."""
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    return FlowMatching(scheduler) if is_flow else Diffusion(scheduler)
