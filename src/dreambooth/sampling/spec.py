"""An inference sampler and its settings as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dreambooth.diffusion.process import Process
from dreambooth.diffusion.samplers import check_scheduler, is_flow, require_family
from dreambooth.errors import UserError

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Sampling:
    """Everything that an image depends on beside the model, its prompt and its seed.

    Args:
        scheduler: a diffusers scheduler class, such as `DDIMScheduler`.
        num_inference_steps: denoising steps.
        guidance_scale: of classifier-free guidance; 1 and below turn it off.
        resolution: pixels a side.
        batch_size: images drawn together; it changes rounding only.
        options: of the scheduler class itself, such as `{"use_karras_sigmas": True}`.
        dtype: `float32`, or `float16` or `bfloat16` to draw under autocast.
    """

    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    resolution: int
    batch_size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    negative_prompt: str = ""
    dtype: str = "float32"

    @property
    def facts(self) -> dict[str, Any]:
        """All settings that change an image, as JSON values: the provenance of drawn images."""
        return {
            "sampler": self.scheduler,
            "options": dict(self.options),
            "steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "resolution": self.resolution,
            "negative_prompt": self.negative_prompt,
            "dtype": self.dtype,
        }

    @property
    def is_flow(self) -> bool:
        """Whether the sampler is for flow-matching models."""
        return is_flow(self.scheduler, self.options)

    def require_family(self, flow: bool) -> None:
        """Refuse a sampler of the other family of models.

        Raises:
            UserError: names the sampler.
        """
        require_family(self.scheduler, self.options, flow)

    def check(self) -> None:
        """Refuse a sampler that diffusers does not have, values that it refuses, and other dtypes.

        Raises:
            UserError: names the sampler or the key, and the value.
        """
        if self.dtype not in DTYPES:
            raise UserError(f"sampling.dtype={self.dtype} is not one of {', '.join(DTYPES)}.")
        try:
            check_scheduler(self.scheduler, dict(self.options), self.num_inference_steps)
        except ValueError as error:
            raise UserError(str(error)) from error

    def build(self, process: Process) -> Any:
        """Make the diffusers scheduler on a model's own schedule.

        Raises:
            UserError: it is for the other family of models.
        """
        return process.sampler(self.scheduler, dict(self.options))
