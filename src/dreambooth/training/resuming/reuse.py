"""Reuse what another run has trained: a phase begins where the same training has got already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.files import cache_key
from dreambooth.sampling.samples import step_name
from dreambooth.training.logs.loggers import Loggers
from dreambooth.training.logs.run_log import CURVE
from dreambooth.training.prepare import Prepared
from dreambooth.training.resuming.checkpoint_records import record_path
from dreambooth.training.resuming.checkpoints import checkpoint_name
from dreambooth.training.resuming.fingerprint import rounding_facts
from dreambooth.training.resuming.resume import Start
from dreambooth.training.resuming.trained import Published, Trained
from dreambooth.training.spec import TrainSpec

log = logging.getLogger(__name__)

MOST_NAMED = 6  # steps in a sentence


@contextmanager
def shared(
    prepared: Prepared, starts: Sequence[Start], curve: Curve | None
) -> Iterator[list[Start]]:
    """Yield where each phase begins if what other runs have trained is taken over.

    A phase that has to train is locked until it is trained, so that no two runs train the same:
    the second waits. Trained weights are the same to the last bit as if the run had trained alone,
    so one that cannot know that of its own checkpoints (it was continued on another machine, or
    from a file that the user names) shares nothing. Processes that a launcher has started share
    nothing either; those that Lightning starts later find the checkpoint in the run's folder. A run
    with `checkpoint.patience` shares nothing, since nobody knows its last step beforehand.
    """
    spec, starts = prepared.spec, list(starts)
    started = any(name in os.environ for name in ("RANK", "LOCAL_RANK"))
    stops_early = spec.checkpoint.patience is not None  # by its own curve, at a step of its own
    if not spec.reuse.enabled or spec.checkpoint.resume != "auto" or started or stops_early:
        yield starts
        return
    starts = _with_places(prepared, starts)
    try:
        with prepared.costs.stage("reuse"):
            are_trained = True  # all phases so far, to their last step
            for number, start in enumerate(starts):
                if start.trained is not None:
                    start = Claim(spec, start.trained, curve).made_if_possible(start, are_trained)
                    starts[number] = start
                are_trained &= start.step == spec.method.phases[number].max_steps
        yield starts
    finally:
        for start in starts:
            if start.trained is not None:
                start.trained.release()


def log_earlier(starts: Sequence[Start], loggers: Loggers, curve: Curve | None, done: int) -> None:
    """Complete the log of the `done` steps: with the curve, and with what another run has trained.

    What is of another run is shown to the viewers too.
    """
    taken = [start.taken for start in starts if start.taken is not None]
    ours = set(loggers.log.rows)
    rows = [row for each in taken for row in each.record["log"] if row["step"] not in ours]
    for scores in curve.rows if curve is not None else []:
        if scores["step"] <= done:
            rows.append({k if k == "step" else f"{CURVE}{k}": v for k, v in scores.items()})
    add = loggers.numbers if taken else loggers.log.add
    for row in sorted(rows, key=lambda row: row["step"]):
        add({name: value for name, value in row.items() if name != "step"}, int(row["step"]))


def _with_places(prepared: Prepared, starts: Sequence[Start]) -> list[Start]:
    """Say of each phase where it is shared; from the first of unknown history on, nowhere."""
    spec, result = prepared.spec, []
    rounding, is_known = rounding_facts(spec, prepared.batches), True
    for number, start in enumerate(starts):
        key = cache_key(facts=dict(start.facts), rounding=rounding)
        is_known &= start.checkpoint is None or start.history["key"] == key
        trained = Trained(
            spec.cache_dir / "trained",
            key,
            spec.reuse.keep_gib,
            spec.folder,
            spec.method.phases[number].max_steps,
            spec.method.steps_before(number),
        )
        result.append(replace(start, trained=trained if is_known else None))
    return result


class Claim:
    """One phase's checkpoint from the cache, or its lock."""

    def __init__(self, spec: TrainSpec, trained: Trained, curve: Curve | None) -> None:
        self.spec, self.trained, self.curve = spec, trained, curve

    def made_if_possible(self, start: Start, may_take: bool) -> Start:
        """Do as `made`; where the cache cannot be used, warn, and share nothing of this phase."""
        try:
            return self.made(start, may_take)
        except (OSError, UserError) as error:
            self.trained.release()
            reason = str(error).rstrip(".")
            log.warning("%s shares no training of this run (%s).", self.trained.root, reason)
            return replace(start, trained=None)

    def made(self, start: Start, may_take: bool) -> Start:
        """Take the newest checkpoint that this run can use, and the lock if steps are left."""
        last, holds = self.trained.last, False
        while start.step < last:
            for found in self.trained.published(start.step) if may_take else []:
                if (holds or found.step == last) and (taken := self._take(start, found)):
                    return taken
            if holds:
                if may_take and self.trained.published(start.step):
                    log.info("Training again: no run of this training has the curve of this one.")
                break
            holds = self.trained.hold()
        return start

    def _take(self, start: Start, found: Published) -> Start | None:
        """Take a checkpoint with the scores and samples up to it; None where that cannot be."""
        runs = [Path(run) for run in found.runs]
        runs = [run for run in runs if self.trained.is_of(run / "checkpoints" / start.folder.name)]
        if not self._take_curve(found, runs):
            return None
        path = self.trained.take(found, start.folder)
        if path is None:
            return None
        lacking = self._take_samples(found, runs)
        places = [found.path.parent, *(run / "checkpoints" / start.folder.name for run in runs)]
        undrawn = {step: None if step == 0 else _kept(places, step) for step in lacking}
        log.info(
            "reusing the training of %s (step %s)",
            found.runs[0],
            self.trained.steps_before + found.step,
        )
        if lost := [step for step, path in undrawn.items() if step and path is None]:
            log.warning("%s", self._of_lost(lost))
        kept = {step: path for step, path in undrawn.items() if step not in lost}
        return replace(start, checkpoint=path, taken=found, undrawn=kept)

    def _of_lost(self, steps: Sequence[int]) -> str:
        """Say which samples there will not be, why, and how to have them."""
        named = [str(self.trained.steps_before + step) for step in steps]
        if len(named) > MOST_NAMED:
            named = [*named[: MOST_NAMED - 2], "...", named[-1]]
        return (
            f"no samples of step {', '.join(named)}: the run that trained them drew others, and "
            "its weights of then are gone. reuse=off resume=null trains again and draws them."
        )

    def _take_curve(self, found: Published, runs: Sequence[Path]) -> bool:
        """Take the scores of all steps before `found` from one of `runs` that has them, or none."""
        if self.curve is None or self.spec.curve is None:
            return True
        first, every = self.trained.steps_before, self.spec.curve.every_n_steps
        needed = range(first, first + found.step, every)
        is_point = found.step % every == 0 or found.step == self.trained.last
        end = first + found.step if is_point else None
        return any(self.curve.adopt(run, needed, end) for run in runs)

    def _take_samples(self, found: Published, runs: Sequence[Path]) -> list[int]:
        """Copy the samples of earlier steps from `runs` that have them; list the phase's others."""
        spec, first, end = self.spec, self.trained.steps_before, found.step
        every, ours, draws = spec.samples.every_n_steps, spec.folder / "samples", spec.samples.set
        if not every:
            return []
        if spec.checkpoint.best is not None and end == self.trained.last:
            end += 1  # the last step is drawn too, and nothing that follows does it
        names = {step: step_name(first + step) for step in range(0, end, every)}
        return [
            step
            for step, name in names.items()
            if not (ours / f"{name}.png").exists()
            and not any(draws.copy(run / "samples", ours, name) for run in runs)
        ]


def _kept(folders: Sequence[Path], step: int) -> Path | None:
    """Find a checkpoint of a step of this training in one of `folders`."""
    paths = [folder / checkpoint_name(step) for folder in folders]
    return next((path for path in paths if path.is_file() and record_path(path).is_file()), None)
