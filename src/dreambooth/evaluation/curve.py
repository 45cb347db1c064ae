"""Scores of a small fixed prompt set while training runs, and the best step by a declared rule."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from dreambooth.errors import UserError
from dreambooth.evaluation.evaluate import Evaluation
from dreambooth.evaluation.record import References
from dreambooth.evaluation.score import score
from dreambooth.files import cache_key, file_hash, link, read_csv, reading, write_csv
from dreambooth.metrics.aggregate import best_step, harmonic_mean
from dreambooth.metrics.variants import clip_t_id, dino_id
from dreambooth.model.trainable import TrainableWeights
from dreambooth.tensors import Damaged, read_tensors, write_tensors

log = logging.getLogger(__name__)

METRICS = ("dino", "clip_i", "clip_t", "pres")


class Curve:
    """`curve.csv`, one row per scored step under full variant ids, and `curve.png`.

    The best step has the highest harmonic mean of DINO and CLIP-T `class_only`. Only steps after
    `best_after` (the start of the last phase) can be the best, so never the model before training;
    with None no step is. The best step's trained state is kept in `checkpoints/best.safetensors`.

    A file whose rows measured anything else (other prompts, seeds, photos, encoders or sampling) is
    renamed, and a new curve begins.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        weights: TrainableWeights,
        folder: Path,
        best_after: int | None,
    ) -> None:
        self.evaluation, self.weights = evaluation, weights
        self.folder, self.best_after = folder, best_after
        self.items = evaluation.items
        self.seconds = 0.0
        self.measured = cache_key(
            items=[asdict(item) for item in self.items],
            drawn_with=evaluation.sampling.facts,
            photos=[file_hash(photo) for photo in evaluation.photos],
            encoders=evaluation.encoders.ids,
        )
        self.rows = self._rows_of(self.path)  # of a run that was stopped
        self.renames_file = self.path.exists() and not self.rows
        if self.renames_file:
            log.warning("%s measured something else: this run begins a new curve.", self.path)

    @property
    def path(self) -> Path:
        """The table of the curve."""
        return self.folder / "curve.csv"

    @property
    def best_path(self) -> Path:
        """Where the best step's trained state is kept."""
        return self.folder / "checkpoints" / "best.safetensors"

    def score(self, step: int) -> dict[str, float]:
        """Draw and score the model as it is; return the scores as a logger names them.

        A step that was scored before is scored again.
        """
        start = time.monotonic()
        prompts, seeds = [i.prompt for i in self.items], [i.seed for i in self.items]
        images = self.evaluation.drawn(self.weights.model, prompts, seeds)
        references, encoders = References(self.evaluation.photos), self.evaluation.encoders
        summary = score(self.items, images, references, encoders, METRICS).summary
        scores = {k: v["mean"] for k, v in summary.items() if not k.startswith("real_ref.")}
        row = {"step": step, **scores, "harmonic_mean": harmonic_mean(*self._rule(scores))}
        self.rows = [r for r in self.rows if r["step"] < step] + [row]
        if step == 0:
            self.best_path.unlink(missing_ok=True)  # it is of an earlier training
        if self.best() == step:
            self._keep(row)
        self.seconds += time.monotonic() - start
        self._write()
        return {f"curve/{key}": value for key, value in row.items() if key != "step"}

    @property
    def last_step(self) -> int | None:
        """The last step that was scored; None before the first."""
        return int(self.rows[-1]["step"]) if self.rows else None

    def warn_of_gap(self, done: int, every: int) -> None:
        """Say that steps which are trained already have no scores, and can get none.

        Args:
            done: optimizer steps of the run that are done.
            every: steps between two points.
        """
        last = self.last_step
        if done and (last is None or done - last > every):
            after = "" if last is None else f" after step {last}"
            log.warning(
                "%s has no scores of the %d steps that are trained already%s: the curve, and what "
                "chooses by it, leaves them out.",
                self.path,
                done - (last or 0),
                after,
            )

    def best(self) -> int | None:
        """Return the best step so far; None where no step can be the best."""
        if self.best_after is None:
            return None
        rows = [row for row in self.rows if row["step"] > self.best_after]
        return self._best_of(rows) if rows else None

    def points_since_best(self, first: int, last: int) -> int:
        """Count the points after the best one, of those after step `first` up to step `last`."""
        rows = [row for row in self.rows if first < row["step"] <= last]
        if not rows:
            return 0
        best = self._best_of(rows)
        return sum(row["step"] > best for row in rows)

    def load_best(self) -> int:
        """Put the best step's weights into the model; return the step.

        Raises:
            UserError: the state that is kept is not the best step's. That happens where a run was
                stopped after a better step had overwritten it, and resumed from an earlier step.
        """
        best, state = self.best(), self.best_path
        assert best is not None  # the last step of a phase is always scored
        row = next(r for r in self.rows if r["step"] == best)
        kept, weights = _read_kept(state)
        if kept != row:
            what = (
                f"holds another point, of step {kept['step']:.0f}"
                if kept
                else "is missing or damaged"
            )
            raise UserError(
                f"{state} {what}, but the best step is {best}, so checkpoint.best cannot be "
                "exported: train again with resume=null, or pass checkpoint.best=null to export "
                "the last step."
            )
        self.weights.load(weights)
        return best

    def _best_of(self, rows: list[dict[str, float]]) -> int:
        return best_step((int(row["step"]), *self._rule(row)) for row in rows)

    def adopt(self, run: Path, needed: Sequence[int], end: int | None) -> bool:
        """Take over the scores of another run, which trained the same weights.

        Those of the `needed` steps must be there; that of `end`, the step after them, may be. The
        best of them comes with its trained state.

        Returns:
            False, and nothing is taken, if the run lacks any of it or measured anything else.
        """
        try:
            theirs = {row["step"]: row for row in self._rows_of(run / "curve.csv")}
        except UserError as error:  # damaged
            log.warning("The scores of another run are not taken over: %s", error)
            return False
        if not set(needed) <= theirs.keys():
            return False
        before = self.rows
        self.rows = [row for row in before if row["step"] < needed[0]]
        self.rows += [theirs[step] for step in [*needed, end] if step in theirs]
        best = self.best()
        if best is not None and best >= needed[0] and not self._take_best(run, theirs[best]):
            self.rows = before
            return False
        self._write()
        return True

    def _take_best(self, run: Path, row: Mapping[str, float]) -> bool:
        """Link another run's best state, if it is the one that `row` belongs to."""
        path = self.best_path.relative_to(self.folder)
        if _read_kept(run / path)[0] != row:
            return False
        link(run / path, self.best_path)
        return True

    def _rows_of(self, path: Path) -> list[dict[str, float]]:
        """Read the rows of a curve; none unless all of them measured the same as this one."""
        with reading(path, "remove it to begin a new curve"):
            rows = read_csv(path) if path.exists() else []
            marks = [row.pop("measured", "") for row in rows]
            if any(mark.partition("-")[0] != self.measured for mark in marks):
                return []
            numbers = [
                {key: int(value) if key == "step" else float(value) for key, value in row.items()}
                for row in rows
            ]
            pairs = zip(marks, numbers, strict=True)
            if any("-" in mark and mark != self._mark(row) for mark, row in pairs):
                raise ValueError("a number in it has changed")
            return numbers

    def _rule(self, scores: Mapping[str, float]) -> tuple[float, float]:
        """Pick the two scores that the best step is chosen by."""
        encoders = self.evaluation.encoders
        dino = scores[dino_id(encoders.of("dino").variant)]
        return dino, scores[clip_t_id(encoders.of("clip_t").variant, "class_only")]

    def _mark(self, row: Mapping[str, float]) -> str:
        """Name what a row measured, and its numbers, so that damage to them is found."""
        return f"{self.measured}-{cache_key(**row)[:8]}"

    def _keep(self, row: Mapping[str, float]) -> None:
        """Save the trained state, with the row that it belongs to."""
        metadata = {"step": str(row["step"]), "rule": "harmonic", "row": json.dumps(row)}
        write_tensors(self.best_path, self.weights.state(), metadata)

    def _write(self) -> None:
        if self.renames_file:
            self.path.replace(self.folder / f"curve-before-{self.measured}.csv")
            self.renames_file = False
        write_csv(self.path, [{**row, "measured": self._mark(row)} for row in self.rows])
        from dreambooth.evaluation.curve_plot import draw_curve  # matplotlib takes a second

        draw_curve(self.rows, self.folder / "curve.png", self.best())


def _read_kept(state: Path) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Read a best state and the row of the curve that it belongs to; empty where there is none."""
    try:
        weights, metadata = read_tensors(state)
        return json.loads(metadata.get("row", "{}")), weights
    except FileNotFoundError:
        return {}, {}
    except (Damaged, ValueError) as error:
        log.warning("%s is damaged (%s).", state, error)
        return {}, {}
