"""The state of a sweep on the disk: what was planned, what failed and why, what is missing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import read_json, reading, write_json
from dreambooth.records import read_record
from dreambooth.scratch import find_files

log = logging.getLogger(__name__)

SWEEP = "sweep.json"  # the plan, in the sweep's folder
TIME = re.compile(r"(\d\d-\d\d-\d\d)(?:_(.+))?")  # a sweep's folder by default: time_preset
LAUNCHERS = ("hydra/launcher", "hydra.launcher")  # overrides that change no run
FAILED = "failed.json"  # in the folder of a run that failed within a sweep


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is going to run.

    Args:
        overrides: of the command line, as Hydra reads them.
        flags: of the command line, such as `--config-dir=DIR`.
        jobs: the overrides of each run and its folder, within the sweep's.
        earlier: the plans of other commands that ran in the same folder before, as mappings.
    """

    overrides: Sequence[str]
    flags: Sequence[str]
    jobs: Sequence[Mapping[str, Any]]
    earlier: Sequence[Mapping[str, Any]] = ()

    @property
    def asked(self) -> set[str]:
        """What a command line asks for; a sweep may go on under another launcher."""
        return {text for text in self.overrides if not text.startswith(LAUNCHERS)}

    def after(self, before: SweepPlan) -> SweepPlan:
        """Return this plan with what other commands had planned in the same folder."""
        plans = [SweepPlan(**{**each, "earlier": ()}) for each in before.earlier]
        plans.append(replace(before, earlier=()))
        others = [asdict(plan) for plan in plans if plan.asked != self.asked]
        return replace(self, earlier=tuple(others))

    @property
    def folders(self) -> list[str]:
        """The folders of all runs, those of other commands too."""
        plans = [self.jobs, *(plan["jobs"] for plan in self.earlier)]
        return list(dict.fromkeys(job["folder"] for jobs in plans for job in jobs))

    def write(self, folder: Path) -> None:
        """Write the plan into the sweep's folder, over an earlier one."""
        write_json(folder / SWEEP, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> SweepPlan:
        """Read the plan of the sweep in `folder`.

        Raises:
            UserError: the folder holds no sweep, or a plan that cannot be read.
        """
        path = folder / SWEEP
        try:
            record = read_json(path)
            if "jobs" not in record:
                raise UserError(f"{path} holds no plan")
        except UserError as error:
            raise UserError(
                f"{folder} is not the folder of a sweep ({error}): give the folder that holds its "
                f"{SWEEP}, such as multirun/DATE/TIME."
            ) from None
        with reading(path, "remove it and start the sweep's own command again"):
            plan = cls(**{**record, "earlier": tuple(record.get("earlier", ()))})
            earlier = [text for each in plan.earlier for text in each["overrides"]]
            for texts in (
                plan.overrides,
                plan.flags,
                earlier,
                *(j["overrides"] for j in plan.jobs),
            ):
                if not all(isinstance(text, str) for text in texts):
                    raise ValueError("its overrides are no texts")
            for name in plan.folders:
                if ".." in Path(name).parts or Path(name).is_absolute():
                    raise ValueError(f"{name} lies outside")
        return plan


@dataclass(frozen=True)
class Unfinished:
    """A run of a sweep that has not finished.

    Args:
        name: its folder, below the one that is reported on.
        state: `failed`, `unfinished` (it has not ended), `missing` (it was not started) or
            `unreadable` (its records are damaged).
        reason: why, in words.
    """

    name: str
    state: str
    reason: str = ""


def record_failure(run: Path, reason: str, started: bool) -> None:
    """Write why a run of a sweep failed, and when.

    Args:
        started: whether the run had left anything; a refused one has not.
    """
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(run / FAILED, {"reason": reason, "time": time, "started": started})


def failure(run: Path) -> dict[str, Any] | None:
    """Read why a run failed; None if it did not."""
    try:
        record = json.loads((run / FAILED).read_text())
        return {"reason": str(record["reason"]), "started": bool(record["started"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_unfinished(folder: Path) -> list[Unfinished]:
    """List the runs below `folder` that failed, did not end or are missing, by name.

    Which runs are missing is known for sweeps whose plan is there.
    """
    runs = {path.parent for path in find_files(folder, FAILED)}
    for path in find_files(folder, SWEEP):
        try:
            runs |= {path.parent / name for name in SweepPlan.read(path.parent).folders}
        except UserError as error:
            log.warning("Missing runs are not known: %s", error)
    found = []
    for run in sorted(runs):
        state = _state(run)
        if state is not None:
            found.append(Unfinished(str(run.relative_to(folder)), *state))
    return found


def _state(run: Path) -> tuple[str, str] | None:
    """Return the state of an unfinished run and its reason; None for a finished one."""
    failed = failure(run)
    if failed is not None:
        return "failed", failed["reason"]
    try:
        if read_record(run / "run.json").get("finished", True):
            return None
        return "unfinished", "stopped after its training, or still running"
    except UserError:
        if (run / "run.json").exists():
            return None  # whoever reads the run says what is wrong with its record
    if run.is_dir():
        return "unfinished", "stopped, or still running"
    return "missing", "not started"


def sweep_name(folder: Path) -> str:
    """Name a sweep by its folder; one that is named by the time gets what the sweep varies first.

    `multirun/2026-11-30/20-40-21` of `subject=dog,cat ppl=true,false` is
    `subject-ppl 2026-11-30 20-40-21`.
    """
    folder = folder.absolute()
    time = TIME.fullmatch(folder.name)
    if time is None:
        return folder.name
    try:
        overrides = SweepPlan.read(folder).overrides
    except UserError:  # not planned by this program, such as an optimizer's
        overrides = []
    keys = [text.lstrip("+").partition("=")[0] for text in overrides if re.search("[,(]", text)]
    what = time[2] or "-".join(key.rpartition(".")[2] for key in keys) or "sweep"
    return f"{what} {folder.parent.name} {time[1]}"


def refuse_sweep(folder: Path) -> None:
    """Refuse a folder of runs where one of them is asked for.

    Raises:
        UserError: counts them, and names the first.
    """
    runs = sorted(record.parent for record in folder.glob("*/run.json"))
    if runs and not (folder / "run.json").exists():
        several = f"{len(runs)} finished runs: give one of them, such as"
        told = several if len(runs) > 1 else "a finished run: give"
        raise UserError(f"run={folder} holds {told} run={runs[0]}")
