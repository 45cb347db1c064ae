"""Where each phase begins: at its newest checkpoint, if that has the same training behind it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.training.resuming.checkpoint_records import read_checkpoint_record, verify
from dreambooth.training.resuming.fingerprint import counted_prior, facts_of_phases, flat, is_under
from dreambooth.training.resuming.trained import Published, Trained
from dreambooth.training.spec import TrainSpec

log = logging.getLogger(__name__)

OF_PRIOR = ("prior", "class_prompt", "class_images")  # facts of a run with a prior loss


@dataclass(frozen=True)
class Start:
    """Where a phase begins: its folder, what it depends on, and a checkpoint to resume from.

    `trained` is where it is shared with other runs, None if it is not. `taken` is the checkpoint of
    another run that `checkpoint` is, if it was taken now. `undrawn` are the earlier steps of this
    phase whose samples no other run has, each with a checkpoint of it; None is its beginning.
    """

    folder: Path
    facts: Mapping[str, Any]
    checkpoint: Path | None
    trained: Trained | None = None
    taken: Published | None = None
    undrawn: Mapping[int, Path | None] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Optimizer steps of this phase that are done."""
        return self.history["step"]

    @property
    def history(self) -> dict[str, Any]:
        """The record of the checkpoint, or what it would say at step 0."""
        if self.checkpoint is None:
            return {"step": 0, "seconds": 0.0, "reused": None, "log_sha256": None}
        return read_checkpoint_record(self.checkpoint)


def find_starts(spec: TrainSpec, facts: Mapping[str, Any]) -> list[Start]:
    """Find each phase's checkpoint; a wrong one is refused before any phase trains.

    Raises:
        UserError: a checkpoint of another configuration, or of more steps than the phase has.
    """
    starts, resume = [], spec.checkpoint.resume
    for number, own in enumerate(facts_of_phases(spec, facts)):
        folder = spec.folder / "checkpoints" / f"phase-{number}"
        named = resume if number == 0 or resume is None else "auto"
        start = Start(folder, own, find(folder, named))
        if start.checkpoint is not None:
            refuse_other_facts(start.checkpoint, own)
            most = spec.method.phases[number].max_steps
            if start.step > most:
                raise UserError(
                    f"{start.checkpoint} was trained for {start.step} steps, more than "
                    f"max_steps={most}: raise max_steps, choose another output folder, or pass "
                    "resume=null."
                )
        starts.append(start)
    return starts


def find(folder: Path, resume: str | None) -> Path | None:
    """Find the checkpoint to resume from: `auto` is the newest valid one of the folder, if any.

    `auto` skips a damaged one with a warning; `resume` may name a `.ckpt`, which must be valid.

    Raises:
        UserError: the checkpoint that `resume` names is damaged or does not exist.
    """
    if resume is None:
        return None
    if resume != "auto":
        verify(resume)
        return Path(resume)
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            verify(path)
            return path
        except UserError as error:
            log.warning("%s", error)
    if not any(folder.glob("step-*.ckpt")) and any(folder.glob("step-*.ckpt.json")):
        log.info(
            "The checkpoints in %s were removed when the run had finished "
            "(checkpoint.keep_when_finished=0), so it trains from the start, unless reuse has it; "
            "evaluate.py and generate.py need no training.",
            folder,
        )
    return None


def steps_done(spec: TrainSpec, starts: Sequence[Start]) -> int:
    """Count the optimizer steps behind the place where a run begins."""
    done = 0
    for number, start in enumerate(starts):
        done = spec.method.steps_before(number) + start.step
        if start.step < spec.method.phases[number].max_steps:
            break
    return done


def log_before(spec: TrainSpec, starts: Sequence[Start]) -> str | None:
    """Return the hash of the run's log up to where it begins; None where rows of others join it."""
    known = None
    for number, start in enumerate(starts):
        if start.taken is not None:
            return None
        if start.checkpoint is not None:
            known = start.history["log_sha256"]
        if start.step < spec.method.phases[number].max_steps:
            break
    return known


def refuse_other_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse to continue from a checkpoint whose training depended on other values.

    Raises:
        UserError: names the keys that differ, with both values.
    """
    recorded = read_checkpoint_record(path)["facts"]
    # an earlier version counted settings of a prior loss that no training depends on
    if recorded.get("prior") is not None:
        recorded |= counted_prior(recorded, recorded.get("class_images") is not None)
    before, now = flat(recorded), flat(facts)
    differing = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if "ppl" in differing:  # says it all
        differing = [key for key in differing if not is_under(key, OF_PRIOR)]
    if differing:
        pairs = ", ".join(f"{k} (was {before.get(k)}, is {now.get(k)})" for k in differing)
        raise UserError(
            f"{path} was trained with another configuration: {pairs}. "
            "Restore these values, choose another output folder, or pass resume=null."
        )
