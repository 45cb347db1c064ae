"""Going on with a sweep: `resume_sweep=DIR` on the command line, and how a stopped one says so."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.interrupt import code_of
from dreambooth.cli.sweeps.planning import PlannedJob
from dreambooth.errors import UserError
from dreambooth.quoting import quoted, typed
from dreambooth.study.finished.sweeps import SWEEP, SweepPlan

log = logging.getLogger(__name__)

KEY = "resume_sweep"


def with_sweep(parsed: Namespace) -> Namespace:
    """Put the command line of an earlier sweep in the place of `resume_sweep=DIR`.

    Hydra's own options, such as another launcher, and `dry_run` may stand beside it.

    Raises:
        UserError: the folder holds no sweep, or an option that would make other runs of it.
    """
    own = [o for o in parsed.overrides if o.lstrip("+").startswith(f"{KEY}=")]
    folder = _value(own[-1]) if own else None
    if folder is None:
        return parsed
    plan = SweepPlan.read(Path(folder))
    for other in plan.earlier:
        log.warning(
            "%s holds the runs of another command too, which is not repeated: train.py -m %s",
            folder,
            " ".join(map(typed, other["overrides"])),
        )
    more = [override for override in parsed.overrides if override not in own]
    other = [o for o in more if not o.lstrip("+~").startswith(("hydra.", "hydra/", "dry_run="))]
    if other:
        raise UserError(
            f"{own[-1]} goes on with the runs of that sweep, and {other[0]} would change them: "
            "take it out, or start a sweep in another folder."
        )
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
    """Write what a sweep is going to run, and the command line that asked for it.

    Raises:
        UserError: the same command line asked for other runs before.
    """
    typed_in: Any = OmegaConf.to_container(sweep.hydra.overrides, resolve=False)
    given = [*typed_in["hydra"], *typed_in["task"]]
    left_out = ("hydra.sweep.dir=", "hydra.mode=")
    overrides = [override for override in given if not override.startswith(left_out)]
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--config-")]
    planned = [
        {"overrides": list(job.overrides), "folder": job.folder, "settings": job.settings}
        for job in jobs
    ]
    folder, plan = Path(sweep.hydra.sweep.dir), SweepPlan(overrides, flags, planned)
    if (folder / SWEEP).exists():
        before = SweepPlan.read(folder)
        refuse_changed(folder, before, plan)
        plan = plan.after(before)
    plan.write(folder)


def refuse_changed(folder: Path, before: SweepPlan, now: SweepPlan) -> None:
    """Refuse to train a sweep's finished runs anew because a file of settings has changed.

    Another command line is another plan: it may run in the same folder.

    Raises:
        UserError: the command line is the same, but a run of it is missing or has other settings.
    """
    if before.asked != now.asked:
        return
    settings = {job["folder"]: job.get("settings") for job in now.jobs}
    for job in before.jobs:
        same = job.get("settings") in (None, settings.get(job["folder"]))
        if job["folder"] not in settings or not same:
            raise UserError(
                f"The settings of {job['folder']} have changed since the sweep in {folder} began: "
                "restore the preset or the other file of settings, start a sweep in another "
                f"folder, or remove {folder / SWEEP} to run it with the new settings."
            )


def command_of(folder: Path) -> str | None:
    """Return the command that goes on with the sweep in `folder`; None if its plan is not there."""
    if not (folder / SWEEP).exists():
        return None
    return f"python train.py {typed(f'{KEY}={quoted(folder)}')}"


@contextmanager
def saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """When the sweep in `folder` is stopped within the block, print how to go on with it, and exit.

    The exit code is 128 + the signal.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if command := command_of(folder):
            print(
                f"\nStopped; finished runs are kept. Continue the sweep with {command}", flush=True
            )
        sys.exit(code_of(stop) if isinstance(stop, KeyboardInterrupt) else stop.code)
