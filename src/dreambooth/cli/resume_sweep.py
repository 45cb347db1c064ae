"""Going on with a sweep: `resume_sweep=DIR` on the command line, and how a stopped one says so."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.planning import PlannedJob
from dreambooth.quoting import quoted, typed
from dreambooth.study.sweeps import SWEEP, SweepPlan

KEY = "resume_sweep"


def with_sweep(parsed: Namespace) -> Namespace:
    """Put the command line of an earlier sweep in the place of `resume_sweep=DIR`.

    What else is given follows it, and replaces its values.

    Raises:
        UserError: the folder holds no sweep.
    """
    own = [o for o in parsed.overrides if o.lstrip("+").startswith(f"{KEY}=")]
    folder = _value(own[-1]) if own else None
    if folder is None:
        return parsed
    plan = SweepPlan.read(Path(folder))
    more = [override for override in parsed.overrides if override not in own]
    values = dict(vars(parsed))
    for flag in plan.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        values[name] = values[name] or value
    values["multirun"] = True
    values["overrides"] = [*plan.overrides, *more, f"hydra.sweep.dir={quoted(folder)}"]
    return Namespace(**values)


def _value(override: str) -> str | None:
    """Read the value of an override as Hydra does; None for null."""
    value = OverridesParser.create().parse_override(override).value()
    return None if value is None else str(value)


def write_plan(sweep: DictConfig, jobs: Sequence[PlannedJob]) -> None:
    """Write what a sweep is going to run, and the command line that asked for it."""
    typed_in: Any = OmegaConf.to_container(sweep.hydra.overrides, resolve=False)
    given = [*typed_in["hydra"], *typed_in["task"]]
    left_out = ("hydra.sweep.dir=", "hydra.mode=")
    overrides = [override for override in given if not override.startswith(left_out)]
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--config-")]
    planned = [{"overrides": list(job.overrides), "folder": job.folder} for job in jobs]
    SweepPlan(overrides, flags, planned).write(Path(sweep.hydra.sweep.dir))


def command_of(folder: Path) -> str | None:
    """Return the command that goes on with the sweep in `folder`; None if its plan is not there."""
    if not (folder / SWEEP).exists():
        return None
    return f"python train.py {typed(f'{KEY}={quoted(folder)}')}"


def say_how_to_go_on(folder: Path) -> None:
    """Print how to go on with a sweep that was stopped."""
    if command := command_of(folder):
        print(f"\nStopped; finished runs are kept. Continue the sweep with {command}", flush=True)
