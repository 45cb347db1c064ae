"""The loop that trains every network of pretraining: keyed batches, averaged weights, resumable."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.errors import UserError
from dreambooth.files import atomic, write_json
from dreambooth.pocket.pretraining import checkpoints
from dreambooth.pocket.pretraining.checkpoints import Progress
from dreambooth.pocket.pretraining.spec import TrainingSpec

Loss = Callable[[torch.Generator], dict[str, Tensor]]
"""Draws one batch from the generator and returns its scalars, of which "total" is minimized."""

CURVE_STEPS = 100  # steps per row of the loss curve

log = logging.getLogger(__name__)


def lr_factor(seen: int, samples: int, decay: float, warmup: int = 4_000) -> float:
    """Compute the learning rate's factor in [0,1] after `seen` of `samples` samples.

    Linear warm-up over `warmup` samples, constant, linear decay over the last share `decay`. The
    constant middle lets a run be lengthened at any time before its decay begins.
    """
    left = (samples - seen) / (decay * samples)
    return max(min(1.0, (seen + 1) / warmup, left), 0.0)


class LossCurve:
    """Means of the loss's terms over many steps, as rows of a `.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: list[str] = []
        self._sums = torch.zeros((), dtype=torch.float64)  # of the terms, and last of the norms
        self._count = 0

    def add(self, terms: dict[str, Tensor], norm: Tensor) -> None:
        """Count one step's terms and gradient norm, without waiting for a GPU."""
        values = torch.stack([value.detach().double() for value in (*terms.values(), norm)])
        self._names, self._count = list(terms), self._count + 1
        self._sums = self._sums + values

    def check(self) -> None:
        """Check that all steps since the last row were finite.

        Raises:
            UserError: a loss or a gradient that is not.
        """
        if not self._sums.isfinite().all():
            raise UserError(
                f"the loss of {self.path.stem} is not finite: run again with a lower learning "
                "rate; the checkpoint that was saved before is kept."
            )

    def write(self, samples: int, per_second: float) -> dict[str, float]:
        """Append a row and begin the next; raises as `check`."""
        self.check()
        means = dict(zip(self._names, (self._sums / self._count).tolist(), strict=False))
        row = {name: round(mean, 5) for name, mean in means.items()}
        row |= {"samples": samples, "per_second": round(per_second, 1)}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self._sums, self._count = torch.zeros_like(self._sums), 0
        return row


def train(
    name: str,
    module: nn.Module,
    loss: Loss,
    folder: Path,
    spec: TrainingSpec,
    facts: dict[str, Any],
) -> nn.Module:
    """Train `module` and return it with its averaged weights, in evaluation mode.

    Every random draw of a step comes from a generator keyed by (seed, step), so that a resumed
    run repeats nothing. SIGTERM and SIGINT save at the next step and raise KeyboardInterrupt.

    Args:
        folder: holds `<name>.pt` (resumed when present), `<name>.jsonl` (the loss curve) and, once
            trained, `<name>.json` (what made it).
        facts: JSON values about this session's data, kept in the checkpoint.

    Raises:
        UserError: a checkpoint that does not fit, or a loss that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(name, module, folder, spec)
    run.begin_session({"batch_size": spec.batch_size, "device": run.device_type, **facts})
    first, started = run.progress.samples, time.monotonic()
    module.train()
    with _signals() as stop:
        while run.progress.samples < spec.samples and not stop:
            run.step(loss)
            now = time.monotonic()
            if run.progress.step % CURVE_STEPS == 0:
                rate = (run.progress.samples - first) / (now - started)
                log.info("%s %s", name, run.curve.write(run.progress.samples, rate))
            if now - run.saved > spec.save_seconds:
                run.save()
        if run.progress.samples > first:
            run.save()
    if stop:
        raise KeyboardInterrupt
    record = checkpoints.training_record(run.progress, run.curve.path)
    write_json(folder / f"{name}.json", record)
    with torch.no_grad():
        for parameter, average in zip(run.parameters, run.average, strict=True):
            parameter.copy_(average)
    return module.eval()


class _Run:
    """A network in training with its optimizer, averaged weights and progress."""

    def __init__(self, name: str, module: nn.Module, folder: Path, spec: TrainingSpec) -> None:
        self.module, self.spec = module, spec
        self.path, self.curve = folder / f"{name}.pt", LossCurve(folder / f"{name}.jsonl")
        self.device_type = torch.device(spec.device).type
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=spec.lr,
            betas=(0.9, 0.99),
            weight_decay=spec.weight_decay,
            fused=True,
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.progress = Progress(seed=spec.seed)
        if self.path.exists():
            self.average, self.progress = checkpoints.resume(
                self.path, module, self.optimizer, spec.seed, spec.device
            )
            log.info("%s: resumed at %d samples", name, self.progress.samples)
        self.saved = time.monotonic()

    def begin_session(self, session: dict[str, Any]) -> None:
        """Record a session, if it has something to train and differs from the one before it."""
        sessions = self.progress.sessions
        if self.progress.samples < self.spec.samples and session not in sessions[-1:]:
            sessions.append(session)

    def step(self, loss: Loss) -> None:
        """Take one optimizer step and update the averaged weights."""
        at, spec = self.progress, self.spec
        for group in self.optimizer.param_groups:
            group["lr"] = spec.lr * lr_factor(at.samples, spec.samples, spec.decay)
        terms = loss(torch.Generator().manual_seed(spec.seed * 1_000_003 + at.step))
        terms["total"].backward()
        self.curve.add(terms, nn.utils.clip_grad_norm_(self.parameters, 1.0))
        if self.device_type == "cpu":  # a GPU is waited for only where a row or checkpoint is due
            self.curve.check()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        at.step, at.samples = at.step + 1, at.samples + spec.batch_size
        # a short memory at first, so that the average forgets the random start
        short = (1 + at.step) / (10 + at.step)
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage, reportCallIssue]
                self.average,
                self.parameters,  # pyright: ignore[reportArgumentType]
                1 - min(spec.ema_decay, short),
            )

    def save(self) -> None:
        """Write the checkpoint, unless a loss was not finite."""
        now = time.monotonic()
        self.progress.seconds, self.saved = self.progress.seconds + now - self.saved, now
        self.curve.check()
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.average,
        }
        with atomic(self.path) as temporary:
            torch.save(state | asdict(self.progress), temporary)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while inside, instead of stopping at once."""
    stop: list[int] = []
    handlers = {s: signal.signal(s, lambda n, _: stop.append(n)) for s in (2, 15)}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
