"""What a run keeps, shows and shares, checked and typed before any work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.evaluation.plan import EvaluationSpec
from dreambooth.sampling.samples import SampleSet


@dataclass(frozen=True)
class CheckpointSpec:
    """What is kept to resume from, and what is resumed.

    `resume` is `auto`, a `.ckpt` or None. `best` is the rule by which the curve chooses the
    exported step; None exports the last one. `patience` is the number of points of the curve after
    which the last phase stops if none is the best; None trains for all steps.
    """

    every_n_steps: int
    keep: int
    keep_when_finished: int | None
    best: str | None
    patience: int | None
    resume: str | None

    @property
    def kept_when_finished(self) -> int:
        """How many checkpoints of each phase a finished run keeps; a raised `keep` means all."""
        if self.keep_when_finished is None:
            return self.keep if self.keep > 2 else 1
        return self.keep_when_finished


@dataclass(frozen=True)
class ExportSpec:
    """What a run leaves of its model.

    `kind` is `full` (a pipeline), `lora`, `adapter`, `token` (files for the base) or `none`.
    `layouts` always holds `diffusers`; `verify` is `auto`, True or False. `rank` is that of a LoRA
    which is extracted from other trained weights; None extracts none.
    """

    kind: str
    dtype: str
    layouts: tuple[str, ...]
    verify: bool | str
    push_to_hub: str | None
    rank: int | None = None


@dataclass(frozen=True)
class ReuseSpec:
    """Whether runs share trainings in the cache, and how many GiB these may fill."""

    enabled: bool
    keep_gib: float


@dataclass(frozen=True)
class SamplesSpec:
    """Sample images, drawn every n optimizer steps (0: only at the end)."""

    set: SampleSet
    every_n_steps: int


@dataclass(frozen=True)
class CurveSpec:
    """Scores while training, every n optimizer steps."""

    evaluation: EvaluationSpec
    every_n_steps: int


@dataclass(frozen=True)
class LoggerSpec:
    """Where a run is shown beside its CSV files, and what it is called there.

    `config` is flat: the settings that studies vary, and those that the command sets. `artifacts`
    gives W&B the export too. The end of a run waits `wait` seconds for W&B at most.
    """

    wandb: bool
    tensorboard: bool
    project: str
    name: str
    group: str
    tags: Sequence[str]
    artifacts: bool
    wait: float
    config: Mapping[str, Any]
