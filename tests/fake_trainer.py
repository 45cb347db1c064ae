"""Stand-ins for a Trainer and its module, for tests of one callback."""

from __future__ import annotations

import torch
from torch import nn


class FakeTrainer:
    """The state that callbacks read."""

    is_global_zero, world_size, should_stop = True, 1, False
    default_root_dir = "absent"

    def __init__(self) -> None:
        self.global_step, self.strategy = 0, self

    def barrier(self) -> None:
        """One process waits for none."""


class FakeModule:
    """A module whose model trains one vector."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.model = nn.Linear(2, 1)


def micro_steps(trainer: FakeTrainer, callback, steps: int, accumulate: int) -> None:
    for _ in range(steps):
        for i in range(accumulate):
            trainer.global_step += i == accumulate - 1
            callback.on_train_batch_end(trainer, None, None, None, i)
