"""The loop that all pretraining stages share: keyed batches, EMA, bf16, resumable at any moment."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dreambooth.errors import UserError
from dreambooth.files import atomic, write_json
from dreambooth.pocket.pretraining import states

log = logging.getLogger(__name__)


def schedule(seen: int, samples: int, decay: float, warmup: int = 4_000) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay over the last `decay` share.

    A constant middle lets a run be lengthened at any time before its decay begins.
    """
    left = (samples - seen) / (decay * samples)
    return max(min(1.0, (seen + 1) / warmup, left), 0.0)


def settings(cfg: DictConfig, stage: str) -> dict:
    """What `train` takes of a stage's own block and of the keys that all stages share."""
    own = ("samples", "batch_size", "lr", "ema_decay", "weight_decay")
    shared = ("decay", "save_seconds", "seed", "device")
    return {key: cfg[stage][key] for key in own} | {key: cfg[key] for key in shared}


class Curve:
    """Means over a hundred steps => rows of a `.jsonl`, and whether all of them are finite."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.sums: Tensor | None = None  # of the loss's terms, and last of the gradient's norm
        self.count = 0

    def add(self, terms: dict[str, Tensor], norm: Tensor) -> None:
        """Count a step; waits for no GPU."""
        values = torch.stack([value.detach().double() for value in (*terms.values(), norm)])
        self.names, self.count = list(terms), self.count + 1
        self.sums = values if self.sums is None else self.sums + values

    def check(self) -> None:
        """Raise UserError when a loss or a gradient since the last row was not finite."""
        if self.sums is not None and not self.sums.isfinite().all():
            raise UserError(
                f"the loss of {self.path.stem} is not finite: run again with a lower learning "
                "rate; the state that was saved before is kept."
            )

    def write(self, samples: int, per_second: float) -> dict[str, float]:
        """Append a row and begin the next; raises as `check`."""
        self.check()
        means = dict(zip(self.names, (self.sums / self.count).tolist(), strict=False))
        row = {name: round(mean, 5) for name, mean in means.items()}
        row |= {"samples": samples, "per_second": round(per_second, 1)}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.sums, self.count = None, 0
        return row


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM as they come, while inside."""
    stop: list[int] = []
    handlers = {s: signal.signal(s, lambda n, _: stop.append(n)) for s in (2, 15)}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(
    name: str,
    module: nn.Module,
    loss: Callable[[torch.Generator, int], dict[str, Tensor]],
    folder: Path,
    samples: int,
    batch_size: int,
    lr: float,
    decay: float,
    ema_decay: float,
    weight_decay: float,
    save_seconds: float,
    seed: int,
    device: str,
    **facts: object,
) -> nn.Module:
    """Train `module` on `samples` samples and return it with its EMA weights.

    Args:
        loss: `(generator, step) => {"total": [], ...}`; every random draw of a step comes from
            the generator, keyed by (seed, step), so that a resumed run repeats nothing.
        folder: holds `<name>.pt` (resumed when present), `<name>.jsonl` (the curve) and, once
            trained, `<name>.json` (what made it).
        facts: JSON values kept with the state, of this sitting.

    SIGTERM and SIGINT save at the next step and raise KeyboardInterrupt.

    Raises:
        UserError: a state that does not fit, or a loss that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, curve = folder / f"{name}.pt", Curve(folder / f"{name}.jsonl")
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    ema = [p.detach().clone() for p in parameters]
    at = {"step": 0, "samples": 0, "seconds": 0.0, "seed": seed, "sittings": []}
    if path.exists():
        ema, at = states.resume(path, module, optimizer, seed, device)
        log.info("%s: resumed at %d samples", name, at["samples"])
    sitting = {"batch_size": batch_size, "device": torch.device(device).type, **facts}

    def save() -> None:
        curve.check()
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema}
        with atomic(path) as temporary:
            torch.save(state | at, temporary)

    first = at["samples"]
    started = saved = time.monotonic()
    module.train()
    with _signals() as stop:
        while at["samples"] < samples and not stop:
            if sitting not in at["sittings"][-1:]:
                at["sittings"].append(sitting)
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(at["samples"], samples, decay)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + at["step"])
            terms = loss(generator, at["step"])
            terms["total"].backward()
            curve.add(terms, nn.utils.clip_grad_norm_(parameters, 1.0))
            if sitting["device"] == "cpu":  # a GPU is waited for only where a row or state is due
                curve.check()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            at["step"], at["samples"] = at["step"] + 1, at["samples"] + batch_size
            # a short memory at first, so that the average forgets the random start
            short = (1 + at["step"]) / (10 + at["step"])
            with torch.no_grad():
                torch._foreach_lerp_(ema, parameters, 1 - min(ema_decay, short))
            now = time.monotonic()
            if at["step"] % 100 == 0:
                rate = (at["samples"] - first) / (now - started)
                log.info("%s %s", name, curve.write(at["samples"], rate))
            if now - saved > save_seconds:
                at["seconds"], saved = at["seconds"] + now - saved, now
                save()
        if at["samples"] > first:
            at["seconds"] += time.monotonic() - saved
            save()
    if stop:
        raise KeyboardInterrupt
    write_json(folder / f"{name}.json", states.account(at, curve.path))
    with torch.no_grad():
        for parameter, average in zip(parameters, ema, strict=True):
            parameter.copy_(average)
    return module.eval()
