"""The loop that all pretraining stages share: keyed batches, EMA, bf16, resumable at any moment."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dreambooth.cache import atomic

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
) -> nn.Module:
    """Train `module` on `samples` samples and return it with its EMA weights.

    Args:
        loss: `(generator, step) => {"total": [], ...}`; every random draw of a step comes from
            the generator, keyed by (seed, step), so that a resumed run repeats nothing.
        folder: holds `<name>.pt` (resumed when present) and `<name>.jsonl` (the curve).

    SIGTERM and SIGINT save at the next step and raise KeyboardInterrupt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, curve = folder / f"{name}.pt", folder / f"{name}.jsonl"
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    ema = [p.detach().clone() for p in parameters]
    step, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        ema, step, seconds = state["ema"], state["step"], state["seconds"]
        log.info("%s: resumed at %d samples", name, step * batch_size)

    def save() -> None:
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
        with atomic(path) as temporary:
            torch.save({**state, "ema": ema, "step": step, "seconds": seconds}, temporary)

    stop: list[int] = []
    handlers = {s: signal.signal(s, lambda n, _: stop.append(n)) for s in (2, 15)}
    sums: dict[str, float] = {}
    counted = 0
    started = saved = time.monotonic()
    first = step
    module.train()
    while step * batch_size < samples and not stop:
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step * batch_size, samples, decay)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        terms = loss(generator, step)
        terms["total"].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        with torch.no_grad():
            # a short memory at first, so that the average forgets the random start
            torch._foreach_lerp_(ema, parameters, 1 - min(ema_decay, (1 + step) / (10 + step)))
        for key, value in terms.items():
            sums[key] = sums.get(key, 0.0) + value.item()
        counted += 1
        now = time.monotonic()
        if step % 100 == 0:
            row = {k: round(v / counted, 5) for k, v in sums.items()}
            rate = (step - first) * batch_size / (now - started)
            row |= {"samples": step * batch_size, "per_second": round(rate, 1)}
            with open(curve, "a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s %s", name, row)
            sums, counted = {}, 0
        if now - saved > save_seconds:
            seconds, saved = seconds + now - saved, now
            save()
    seconds += time.monotonic() - saved
    save()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if stop:
        raise KeyboardInterrupt
    with torch.no_grad():
        for parameter, average in zip(parameters, ema, strict=True):
            parameter.copy_(average)
    return module.eval()
