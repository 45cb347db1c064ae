"""One run of train.py from beginning to end: prepare, train each phase, finish."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.record import Scores
from dreambooth.files import write_json
from dreambooth.locks import held
from dreambooth.records import amend_record
from dreambooth.scratch import remove_leftovers
from dreambooth.training.distributed import is_first
from dreambooth.training.finish import Finish
from dreambooth.training.logs.costs import STOPPED, Costs
from dreambooth.training.logs.loggers import make_loggers, silence_libraries
from dreambooth.training.logs.memory import free_memory
from dreambooth.training.logs.summary import Finished
from dreambooth.training.phase import train_phases
from dreambooth.training.prepare import Prepared, prepare
from dreambooth.training.resuming.fingerprint import facts_of
from dreambooth.training.resuming.resume import Start, find_starts, log_before, steps_done
from dreambooth.training.resuming.reuse import log_earlier, shared
from dreambooth.training.resuming.superseded import set_curve_aside
from dreambooth.training.scoring import make_curve
from dreambooth.training.spec import TrainSpec


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `code` is 0, or 128 + the signal that stopped it.

    `finished` is for the first rank alone.
    """

    code: int
    finished: Finished | None = None

    @property
    def scores(self) -> Scores | None:
        """The run's scores, if it has any."""
        return self.finished.scores if self.finished else None


def run(spec: TrainSpec, estimated_gib: float | None = None) -> Outcome:
    """Do the whole job in `spec.folder`, and record what each stage costs.

    All ranks run the same job; rank 0 writes, and holds the folder. The record holds the memory
    that training was estimated to need beside what it needed.

    Raises:
        UserError: another run is at work in the folder; or a mistake that the user can fix, before
            the first step if it can be found there.
    """
    with held(spec.folder) if is_first() else nullcontext():
        if is_first():  # what is whole is read without coming to the places that tidy up
            remove_leftovers(spec.cache_dir, deep=True)
        return _run(spec, estimated_gib)


def _run(spec: TrainSpec, estimated_gib: float | None) -> Outcome:
    free_memory()  # that an earlier run of this process has left
    silence_libraries()
    _seed_libraries(spec.seed)
    costs = Costs.resumed(spec.folder) if spec.checkpoint.resume is not None else Costs()
    costs.estimated_gib = None if estimated_gib is None else round(estimated_gib, 3)
    prepared = prepare(spec, costs)
    facts = facts_of(spec, prepared.model, prepared.training_photos, prepared.batches)
    starts, curve = find_starts(spec, facts), make_curve(prepared)
    with shared(prepared, starts, curve) as starts:
        return _train(prepared, starts, curve)


def _train(prepared: Prepared, starts: list[Start], curve: Curve | None) -> Outcome:
    """Train every phase from its start, and finish the run unless a signal has stopped it."""
    spec, costs = prepared.spec, prepared.costs
    done = steps_done(spec, starts)
    loggers = make_loggers(spec, done, log_before(spec, starts))
    if is_first():
        if spec.curve is None and not done:
            set_curve_aside(spec.folder)
        amend_record(spec.folder / "run.json")  # an earlier session's log and curve go on
    try:
        loggers.photos(prepared.training_photos)
        log_earlier(starts, loggers, curve, done)
        if curve is not None and spec.curve is not None:
            curve.warn_of_gap(done, spec.curve.every_n_steps)
        with costs.stage("training") as places:
            places.append(spec.folder / "checkpoints")
            phases, stopped = train_phases(prepared, starts, loggers, curve)
        if not is_first():
            return Outcome(0)
        if stopped is None:
            return Outcome(0, Finish(prepared, loggers, curve, phases).run())
        write_json(spec.folder / STOPPED, costs.record)
        loggers.end({})
    except BaseException:
        if is_first():
            loggers.end({}, failed=True)
        raise
    return Outcome(128 + stopped)


def _seed_libraries(seed: int) -> None:
    """Seed the global generators, for libraries that draw from them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
