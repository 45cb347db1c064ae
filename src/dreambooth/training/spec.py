"""The values of one training run, checked and typed before any work begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from dreambooth.data.crops import Crops
from dreambooth.data.prompts import SubjectWords
from dreambooth.diffusion.flow import TimestepSettings
from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.phases import Phase
from dreambooth.model.textual_inversion import TokenSettings
from dreambooth.sampling.spec import Sampling
from dreambooth.training.output_spec import (
    CheckpointSpec,
    CurveSpec,
    ExportSpec,
    LoggerSpec,
    ReuseSpec,
    SamplesSpec,
)


@dataclass(frozen=True)
class ModelSpec:
    """A base model: `path` is `pocket`, a local diffusers folder or a hub id.

    `max_sequence_length` is of those models whose pipelines take one.
    """

    name: str
    path: str
    revision: str | None
    variant: str | None
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class SubjectSpec:
    """A subject's words, and where its photos come from.

    `photos` is a folder. Without it `root` is a copy of the dataset. Without both, `rendered`
    pictures of the embedded world are made; with None the dataset is downloaded. The first `use`
    photos train; None is all. `gallery` names the other known subjects of the class.
    """

    name: str
    words: SubjectWords
    identifier: str
    instance_prompt: str
    photos: str | None
    root: str | None
    rendered: int | None
    use: int | None = None
    gallery: tuple[str, ...] = ()


@dataclass(frozen=True)
class PriorSpec:
    """What prior preservation trains on; `images_dir` is a folder of the user's own images.

    With `kind` "images" these are class images, drawn without a folder. With "prediction" the
    target is what the model predicted before training: on the folder's images, or else on the
    photos under the class prompt.
    """

    kind: str
    num_class_images: int
    images_dir: str | None
    seed: int
    sampling: Sampling

    @property
    def needs_images(self) -> bool:
        """Whether there are images beside the photos to train on."""
        return self.kind == "images" or self.images_dir is not None


@dataclass(frozen=True)
class DataSpec:
    """How photos become batches; `prior_batch_size` counts the class images of a micro-batch."""

    crops: Crops
    batch_size: int
    prior_batch_size: int
    pairing: str
    noise_offset: float
    timesteps: TimestepSettings


@dataclass(frozen=True)
class PhaseSpec:
    """One phase of a method: what trains, at which rate, for how many optimizer steps.

    `token_lr` is the rate of a token that trains; None is `lr`.
    """

    parts: Phase
    lr: float
    max_steps: int
    token_lr: float | None = None


@dataclass(frozen=True)
class MethodSpec:
    """The phases in order, with the adapter and the new token that they train.

    A phase that trains the token draws each row's prompt from `templates`; empty keeps the photos'.
    """

    phases: tuple[PhaseSpec, ...]
    adapter: AdapterSettings | None
    token: TokenSettings | None
    templates: tuple[str, ...] = ()

    @property
    def export(self) -> str:
        """What was learned: `full` (a pipeline), or files for the base.

        These are `lora` (a file that diffusers loads), `adapter` (PEFT's folders of the other
        kinds) or `token`; a token that trains beside an adapter has a file too.
        """
        kinds = [kind for phase in self.phases for kind in phase.parts.parts]
        if "full" in kinds or any(isinstance(kind, tuple) for kind in kinds):
            return "full"
        if "adapter" not in kinds or self.adapter is None:
            return "token"
        return "lora" if self.adapter.kind == "LORA" else "adapter"

    def steps_before(self, number: int) -> int:
        """Count the optimizer steps of the phases before phase `number`."""
        return sum(phase.max_steps for phase in self.phases[:number])


@dataclass(frozen=True)
class Loss:
    """The two-term loss. `prior_loss_weight` is the paper's lambda.

    `prior_weight_schedule` takes it to `prior_weight_end` over a phase (`scheduled_weight`).
    `min_snr_gamma` None leaves errors unweighted. `noise_schedule_dtype` "latents" casts the
    schedule to the latents' dtype, as diffusers does; float32 is exact. `weighting` is that of flow
    matching.
    """

    prior_loss_weight: float
    min_snr_gamma: float | None = None
    noise_schedule_dtype: str = "float32"
    prior_weight_schedule: str = "constant"
    prior_weight_end: float = 0.0
    weighting: str = "none"


@dataclass(frozen=True)
class OptimizerSpec:
    """`factory` is `(parameter groups, lr) => Optimizer`; a step is an optimizer update.

    `text_encoder_lr` None takes the phase's rate; `text_encoder_stop_step` None never stops the
    text encoder; `loraplus_lr_ratio` None gives B the rate of A; `ema_decay` None keeps no average.
    """

    factory: Callable[..., torch.optim.Optimizer]
    text_encoder_lr: float | None
    text_encoder_stop_step: int | None
    loraplus_lr_ratio: float | None
    lr_schedule: str
    lr_warmup_steps: int
    max_grad_norm: float
    accumulate: int
    ema_decay: float | None


@dataclass(frozen=True)
class HardwareSpec:
    """Where and how the networks run; `trainer` makes a Lightning Trainer.

    `quantize` is `8bit` or `4bit` for the denoiser's frozen linear layers, or None. With `offload`,
    networks that no step needs wait on the CPU while a GPU trains.
    """

    trainer: Callable[..., pl.Trainer]
    device: str
    frozen_dtype: str
    gradient_checkpointing: bool
    compile: bool
    quantize: str | None = None
    offload: bool = False


@dataclass(frozen=True)
class TrainSpec:
    """Everything that one run of train.py does.

    `config` is the configuration with every reference resolved, `written` as it was written; both
    are plain values, kept in run.json. `init_adapter` is a LoRA's file or folder that adapters
    begin at.
    """

    folder: Path
    cache_dir: Path
    seed: int
    model: ModelSpec
    subject: SubjectSpec
    data: DataSpec
    prior: PriorSpec | None
    method: MethodSpec
    init_adapter: str | None
    loss: Loss
    optimizer: OptimizerSpec
    hardware: HardwareSpec
    checkpoint: CheckpointSpec
    export: ExportSpec
    reuse: ReuseSpec
    samples: SamplesSpec
    sampling: Sampling
    evaluation: EvaluationSpec | None
    curve: CurveSpec | None
    logger: LoggerSpec
    config: Mapping[str, Any]
    written: Mapping[str, Any]
