"""What follows the training: export, final samples, scores, the run's record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.evaluate import Pair
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import SUPERSEDED, scores_folder, write_scores
from dreambooth.files import bytes_of, file_hashes
from dreambooth.model.offload import alone
from dreambooth.quoting import quoted, typed
from dreambooth.records import amend_record, write_record
from dreambooth.sampling.provenance import Weights
from dreambooth.sampling.samples import FINAL
from dreambooth.training.exports.export import Exported, export
from dreambooth.training.exports.verify import prepare_verification, verify
from dreambooth.training.logs.costs import STOPPED
from dreambooth.training.logs.loggers import Loggers
from dreambooth.training.logs.memory import device_name
from dreambooth.training.logs.summary import Finished
from dreambooth.training.prepare import Prepared
from dreambooth.training.resuming.checkpoints import left_over, remove_left_over
from dreambooth.training.resuming.finished import beside_model, places_of_export
from dreambooth.training.resuming.superseded import (
    bring_back,
    identity,
    set_aside,
    weights_of_run,
)
from dreambooth.training.scoring import make_evaluation
from dreambooth.versions import versions

log = logging.getLogger(__name__)

LOGS = ("metrics.csv", "curve.csv")  # whose hashes a finished run's record holds


class Finish:
    """The closing stages of a run whose phases have all been trained.

    The run is recorded as soon as its model is exported, so that run.json matches the weights even
    if sampling or scoring fails; it says `finished` once all is done. Earlier scores, and an
    earlier curve if this run has none, are set aside if they are of other weights.
    """

    def __init__(
        self,
        prepared: Prepared,
        loggers: Loggers,
        curve: Curve | None,
        phases: dict[str, Any],
    ) -> None:
        self.prepared, self.loggers, self.curve = prepared, loggers, curve
        self.phases = phases  # costs of every phase
        self.spec, self.model = prepared.spec, prepared.model
        self.folder, self.costs = self.spec.folder, prepared.costs
        self.best_step: int | None = None
        self.programs: dict[str, str] = {}  # that load the export, by layout
        self.verified: dict[str, dict[str, Any]] = {}
        self.weights: str | None = None  # the hash that names what was exported
        self.exported: dict[str, str] = {}  # files of the exported model and their hashes
        last = len(self.spec.method.phases) - 1
        self.stopped_early_at: int | None = phases[f"phase_{last}"]["stopped_early_at"]
        self.last_step = self.stopped_early_at or self.spec.method.steps_before(last + 1)

    def run(self) -> Finished:
        """Export, draw, score and record the run."""
        self.model.to(self.spec.hardware.device)
        if self.curve is not None:
            self._finish_curve(self.curve)
        kind = self.spec.export.kind
        prepare_verification(self.prepared)
        with alone(self.model):
            self.prepared.weights.unquantize()  # pictures and scores are of what is exported
            exported = self._export()
        shown = self.spec.method.export if kind == "none" else kind
        weights = Weights(self.spec.model.name, shown, self.folder.name, exported.hashes)
        with self.costs.stage("samples") as places:
            samples = self.spec.samples.set
            places.append(self.folder / "samples")
            photos = self.prepared.training_photos
            images = samples.draw(self.model, weights, places[-1], FINAL, photos)
            self.loggers.samples(places[-1] / FINAL, samples.items, self.last_step)
        drawn = zip(samples.items, images, strict=True)
        known = {(item.prompt, item.seed): image for item, image in drawn}
        scores = self._score(weights, known if samples.sampling == self.spec.sampling else {})
        with self.costs.stage("verification"), alone(self.model):
            self.verified = verify(self.prepared, exported, images[0])
        left = bytes_of([self.folder]) - bytes_of(self._left_over(scores))
        total = {**self._write_record(), "bytes_written": left}
        model = self.folder / "model"
        self.loggers.end(total, model if model.is_dir() else None)
        self._write_record(total)
        remove_left_over(self._left_over(scores))
        words, program = self.spec.subject.words, exported.programs.get("diffusers")
        return Finished(self.folder, words, program, total, scores, self.verified)

    def _left_over(self, scores: Scores | None) -> list[Path]:
        """List the checkpoints to remove; none if they are all that is left of unscored weights."""
        if self.spec.export.kind == "none" and self.spec.evaluation is not None and scores is None:
            return []
        return left_over(self.folder, self.spec.checkpoint.kept_when_finished)

    def _finish_curve(self, curve: Curve) -> None:
        """Score the last step, and load the best one if that is to be exported.

        Without it, a curve that lacks its last point costs no trained model.
        """
        last, needs_best = self.last_step, self.spec.checkpoint.best is not None
        if curve.last_step is None or curve.last_step < last:
            try:
                self.loggers.numbers(curve.score(last), last)
            except Exception as error:
                if needs_best:
                    raise
                log.warning("%s has no scores of step %d: %s", curve.path, last, error)
        self.phases["curve"] = {"seconds": round(curve.seconds, 2)}
        if needs_best:
            self.best_step = curve.load_best()

    def _export(self) -> Exported:
        """Export and record the model."""
        before = weights_of_run(self.folder)
        # the export is replaced: a process that is killed meanwhile would leave the record of an
        # earlier, finished run beside the new weights
        amend_record(self.folder / "run.json", finished=False, weights=before)
        with self.costs.stage("export") as places:
            exported = export(self.prepared, lambda hashes: self._record_model(hashes, before))
            self.programs = dict(exported.programs)
            places += places_of_export(self.folder)
        self._write_record()
        return exported

    def _record_model(self, hashes: Mapping[str, str], before: str | None) -> None:
        """Record the model that has just been written; set scores of different weights aside."""
        weights = identity(hashes)
        moved = set_aside(self.folder, weights, before, self.curve is not None)
        if moved:
            names = " and ".join(str(path) for path in moved)
            log.info("%s are of the previous weights: moved to %s/.", names, SUPERSEDED)
        self.weights, self.exported = weights, file_hashes(self.folder / "model")
        self._write_record()
        bring_back(self.folder, weights)

    def _write_record(self, total: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Write run.json, of a finished run with its `total` costs; return the costs."""
        spec, words = self.spec, self.spec.subject.words
        subject = {"name": spec.subject.name, "class_noun": words.class_noun, "live": words.live}
        costs = {**self.costs.record, "bytes_written": bytes_of([self.folder]), **self.phases}
        record = {
            "finished": total is not None,
            "model": asdict(spec.model),
            "export": spec.export.kind,
            "programs": self.programs,
            "verified": self.verified,
            "weights": self.weights,
            "exported": self.exported,
            "beside": file_hashes(self.folder, beside_model(self.folder)) if total else {},
            "subject": subject,
            "subject_phrase": words.phrase,
            "photos": [str(path.resolve()) for path in self.prepared.photos],
            "photos_used": len(self.prepared.training_photos),
            "contents": dict(self.prepared.contents),
            "sampling": asdict(spec.sampling),
            "device": device_name(spec.hardware.device),
            "best_step": self.best_step,
            "stopped_early_at": self.stopped_early_at,
            "program": versions(),
            "config": dict(spec.config),
            "written": dict(spec.written),
            "costs": total or costs,
        }
        write_record(self.folder / "run.json", record, LOGS if total else ())
        (self.folder / STOPPED).unlink(missing_ok=True)
        return costs

    def _score(self, weights: Weights, known: Mapping[Pair, Image.Image]) -> Scores | None:
        """Score the run; if that fails, warn once, because the training is done.

        Samples that the evaluation asks for too are not drawn again.
        """
        settings = self.spec.evaluation
        if settings is None:
            return None
        images = scores_folder(self.folder, settings.name)
        try:
            with self.costs.stage("evaluation") as places:
                evaluation = make_evaluation(self.prepared, settings)
                scores, record = evaluation.score_model(self.model, weights, images, known)
                places.append(images)
            write_scores(images, scores, {**record, "cost": self.costs.record})
        except Exception as error:
            log.warning(
                "%s; the run is complete: score it later with `python evaluate.py %s "
                "evaluation=%s evaluation.encoders_dir=DIR`.",
                str(error).rstrip(".") or type(error).__name__,
                typed(f"run={quoted(self.folder)}"),
                settings.name,
            )
            log.debug("the error in full:", exc_info=True)
            return None
        self.loggers.scores(scores, None, images, self.last_step)
        return scores
