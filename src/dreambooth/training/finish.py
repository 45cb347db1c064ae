"""What follows the training: export, final samples, scores, the run's record."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dreambooth.errors import UserError
from dreambooth.evaluation.curve import Curve
from dreambooth.evaluation.record import Scores
from dreambooth.evaluation.write import scores_folder, write_scores
from dreambooth.files import bytes_of, folder_hash, write_json
from dreambooth.model.adapters.lora_files import save_lora
from dreambooth.model.snippet import Picture, snippet
from dreambooth.model.textual_inversion import TOKEN_FILE, save_token
from dreambooth.quoting import quoted, typed
from dreambooth.sampling.provenance import Weights, export_hashes
from dreambooth.sampling.samples import FINAL
from dreambooth.training.costs import STOPPED
from dreambooth.training.finished import contents
from dreambooth.training.loggers import Loggers
from dreambooth.training.memory import device_name
from dreambooth.training.prepare import Prepared, make_evaluation
from dreambooth.training.summary import print_line, print_summary
from dreambooth.versions import versions

log = logging.getLogger(__name__)


class Finish:
    """The closing stages of a run whose phases have all been trained.

    The run is recorded as soon as its model is exported, so that run.json matches the weights even
    if sampling or scoring fails; it says `finished` once all is done. Earlier scores, and an
    earlier curve if this run has none, are kept only if the weights have not changed.
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
        self.contents = contents(prepared.photos, self.spec.config)
        last = len(self.spec.method.phases) - 1
        self.stopped_early_at: int | None = phases[f"phase_{last}"]["stopped_early_at"]
        self.last_step = self.stopped_early_at or self.spec.method.steps_before(last + 1)

    def run(self) -> Scores | None:
        """Export, draw, score and record the run; return its scores, if it has any."""
        self.model.to(self.spec.hardware.device)
        if self.curve is not None:
            self._finish_curve(self.curve)
        program = self._export()
        weights = self._weights()
        with self.costs.stage("samples") as places:
            samples = self.spec.samples.set
            samples.draw(self.model, weights, self.folder / "samples", FINAL)
            self.loggers.samples(self.folder / "samples" / FINAL, samples.items, self.last_step)
            places.append(self.folder / "samples")
        scores = self._score(weights)
        total = self._write_record()
        self.loggers.end(total, self.folder / "model")
        self._write_record(total)
        if self.spec.is_of_sweep:
            print_line(self.spec.logger.name, total, scores)
        else:
            print_summary(self.folder, program, self.spec.subject.words, total, scores)
        return scores

    def _finish_curve(self, curve: Curve) -> None:
        """Score the last step, and load the best one if that is to be exported."""
        last = self.last_step
        if curve.last_step is None or curve.last_step < last:
            self.loggers.numbers(curve.score(last), last)
        self.phases["curve"] = {"seconds": round(curve.seconds, 2)}
        if self.spec.checkpoint.best is not None:
            self.best_step = curve.load_best()

    def _export(self) -> str:
        """Export and record the model; remove scores of different weights.

        Returns:
            the lines of Python that load the export.
        """
        patterns = ["evaluation/*/metrics.json", "evaluation/*/scores.csv"]
        patterns += [] if self.curve else ["curve.csv", "curve.png"]
        earlier = sorted(path for pattern in patterns for path in self.folder.glob(pattern))
        before = _hash(self.folder / "model") if earlier else None
        self._forget_end()
        with self.costs.stage("export") as places:
            program = self._export_files(self.folder / "model")
            places.append(self.folder / "model")
        self._write_record()
        if earlier and _hash(self.folder / "model") != before:
            for path in earlier:
                path.unlink()
            log.info(
                "Removed %s of the previous weights.",
                " and ".join(str(p.relative_to(self.folder)) for p in earlier),
            )
        return program

    def _forget_end(self) -> None:
        """Say of an earlier run in this folder that it is not finished: its export is replaced.

        A process that is killed meanwhile would leave the old record beside the new weights.
        """
        path = self.folder / "run.json"
        try:
            record = json.loads(path.read_text())
            write_json(path, {**record, "finished": False})
        except (OSError, ValueError, TypeError):  # no record, or one that cannot be read
            return

    def _export_files(self, folder: Path) -> str:
        """Write what was learned in diffusers' format; return lines that draw the first sample."""
        method, samples = self.spec.method, self.spec.samples.set
        scheduler = samples.sampling.build(self.model.noise_scheduler)
        exported = folder
        if method.export == "full":
            self.model.export(folder, scheduler)
        elif method.export == "lora":
            save_lora(self.model, folder)
        else:
            assert method.token is not None
            exported = folder / TOKEN_FILE
            save_token(self.model, method.token, exported)
        picture = Picture(
            samples.prompts[0],
            samples.seeds[0],
            samples.sampling.num_inference_steps,
            samples.sampling.guidance_scale,
            samples.sampling.resolution,
            samples.sampling.negative_prompt,
            self.spec.hardware.device,
            samples.sampling.dtype,
        )
        return snippet(self.model, method.export, exported, scheduler, picture)

    def _write_record(self, total: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Write run.json, of a finished run with its `total` costs; return the costs."""
        spec, words = self.spec, self.spec.subject.words
        subject = {"name": spec.subject.name, "class_noun": words.class_noun, "live": words.live}
        costs = {**self.costs.record, "bytes_written": bytes_of([self.folder]), **self.phases}
        record = {
            "finished": total is not None,
            "model": asdict(spec.model),
            "export": spec.method.export,
            "subject": subject,
            "subject_phrase": words.phrase,
            "photos": [str(path.resolve()) for path in self.prepared.photos],
            "photos_used": len(self.prepared.training_photos),
            "contents": self.contents,
            "sampling": asdict(spec.sampling),
            "device": device_name(spec.hardware.device),
            "best_step": self.best_step,
            "stopped_early_at": self.stopped_early_at,
            "program": versions(),
            "config": dict(spec.config),
            "written": dict(spec.written),
            "costs": total or costs,
        }
        write_json(self.folder / "run.json", record)
        (self.folder / STOPPED).unlink(missing_ok=True)
        return costs

    def _weights(self) -> Weights:
        """Name the exported weights, as every picture of them does."""
        spec = self.spec
        hashes = export_hashes(self.folder / "model", self.model.weights_hash)
        return Weights(spec.model.name, spec.method.export, self.folder.name, hashes)

    def _score(self, weights: Weights) -> Scores | None:
        """Score the run; if that fails, warn once, because the training is done."""
        settings = self.spec.evaluation
        if settings is None:
            return None
        images = scores_folder(self.folder, settings.name)
        try:
            with self.costs.stage("evaluation") as places:
                evaluation = make_evaluation(self.prepared, settings)
                scores, record = evaluation.score_model(self.model, weights, images)
                places.append(images)
        except (UserError, torch.OutOfMemoryError) as error:
            log.warning(
                "%s; the run is complete: score it later with `python evaluate.py %s "
                "evaluation=%s evaluation.encoders_dir=DIR`.",
                str(error).rstrip("."),
                typed(f"run={quoted(self.folder)}"),
                settings.name,
            )
            return None
        write_scores(images, scores, {**record, "cost": self.costs.record})
        self.loggers.scores(scores, None, images, self.last_step)
        return scores


def _hash(export: Path) -> str | None:
    return folder_hash(export) if any(export.glob("*")) else None
