"""Scores of a small fixed prompt set while training runs, and the best step by a declared rule."""

from __future__ import annotations

import csv
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.evaluation.evaluate import Evaluation
from dreambooth.evaluation.score import score
from dreambooth.files import atomic, cache_key, file_hash
from dreambooth.metrics.aggregate import best_step, harmonic_mean
from dreambooth.metrics.variants import clip_t_id, dino_id
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.trainable import load_trained_state, trained_state

log = logging.getLogger(__name__)

METRICS = ("dino", "clip_i", "clip_t", "pres")


class Curve:
    """`curve.csv`, one row per scored step under full variant ids, and `curve.png`.

    The best step has the highest harmonic mean of DINO and CLIP-T `class_only`. Only steps after
    `best_after` (the start of the last phase) can be it, so never the model before training;
    None keeps none. Its trained state is `checkpoints/best.safetensors`.

    Rows that measured anything else (other prompts, seeds, photos, encoders, sampling) are no part
    of this curve: their file is renamed.
    """

    def __init__(
        self, evaluation: Evaluation, model: LatentDiffusion, folder: Path, best_after: int | None
    ) -> None:
        self.evaluation, self.model = evaluation, model
        self.folder, self.best_after = folder, best_after
        self.items = evaluation.items
        self.seconds = 0.0
        self.rows: list[dict[str, float]] = []
        self.renames_file = False  # curve.csv holds rows that measured something else
        self.measured = cache_key(
            items=[asdict(item) for item in self.items],
            drawn_with=evaluation.sampling.facts,
            photos=[file_hash(photo) for photo in evaluation.photos],
            encoders=evaluation.encoders.ids,
        )
        path = self.folder / "curve.csv"
        if path.exists():  # of a run that was stopped
            with open(path, newline="") as file:
                read = list(csv.DictReader(file))
            if any(row.pop("measured", None) != self.measured for row in read):
                log.warning("%s measured something else: this run begins a new curve.", path)
                self.renames_file = True
            else:
                self.rows = [{key: float(value) for key, value in row.items()} for row in read]

    @property
    def best_path(self) -> Path:
        """Where the best step's trained state is kept."""
        return self.folder / "checkpoints" / "best.safetensors"

    def score(self, step: int) -> dict[str, float]:
        """Draw and score the model as it is; return the scores as a logger names them.

        A step that was scored before is scored anew.
        """
        start = time.monotonic()
        prompts, seeds = [i.prompt for i in self.items], [i.seed for i in self.items]
        images = self.evaluation.drawn(self.model, prompts, seeds)
        photos, encoders = self.evaluation.photos, self.evaluation.encoders
        summary = score(self.items, images, photos, encoders, METRICS).summary
        scores = {k: v["mean"] for k, v in summary.items() if not k.startswith("real_ref.")}
        row = {"step": step, **scores, "harmonic_mean": harmonic_mean(*self._rule(scores))}
        self.rows = [r for r in self.rows if r["step"] < step] + [row]
        if step == 0:
            self.best_path.unlink(missing_ok=True)  # of an earlier training in this folder
        if self.best() == step:
            self._keep(row)
        self.seconds += time.monotonic() - start
        self._write()
        return {f"curve/{key}": value for key, value in row.items() if key != "step"}

    @property
    def last_step(self) -> int | None:
        """The last step that was scored; None before the first."""
        return int(self.rows[-1]["step"]) if self.rows else None

    def best(self) -> int | None:
        """Return the best step so far; None where none is kept or none can be it."""
        if self.best_after is None:
            return None
        rows = [row for row in self.rows if row["step"] > self.best_after]
        return best_step((int(r["step"]), *self._rule(r)) for r in rows) if rows else None

    def load_best(self) -> int:
        """Put the best step's weights into the model; return the step.

        Raises:
            UserError: no state was kept, or that of another step: the run was stopped after a
                better step had overwritten it, and then went on from an earlier step.
        """
        best, state = self.best(), self.best_path
        row = next(r for r in self.rows if r["step"] == best)
        kept = {}
        if state.exists():
            with safe_open(state, framework="pt") as file:
                kept = file.metadata()
        if json.loads(kept.get("row", "{}")) != row:
            what = f"holds another point, of step {kept['step']}" if kept else "is missing"
            raise UserError(
                f"{state} {what}, but the best step is {best}, so checkpoint.best cannot be "
                "exported: train again with resume=null, or pass checkpoint.best=null to export "
                "the last step."
            )
        load_trained_state(self.model, load_file(state))
        return best

    def _rule(self, scores: dict[str, float]) -> tuple[float, float]:
        encoders = self.evaluation.encoders
        assert encoders.dino and encoders.clip  # of METRICS
        dino = scores[dino_id(encoders.dino.variant)]
        return dino, scores[clip_t_id(encoders.clip.variant, "class_only")]

    def _keep(self, row: dict[str, float]) -> None:
        state = {k: v.detach().cpu().contiguous() for k, v in trained_state(self.model).items()}
        metadata = {"step": str(row["step"]), "rule": "harmonic", "row": json.dumps(row)}
        with atomic(self.best_path) as temporary:
            save_file(state, temporary, metadata)

    def _write(self) -> None:
        path = self.folder / "curve.csv"
        if self.renames_file:
            path.replace(self.folder / f"curve-before-{self.measured}.csv")
            self.renames_file = False
        with atomic(path) as temporary, open(temporary, "w") as file:
            writer = csv.DictWriter(file, [*self.rows[-1], "measured"])
            writer.writeheader()
            writer.writerows({**row, "measured": self.measured} for row in self.rows)
        from dreambooth.evaluation.curve_plot import draw_curve  # matplotlib takes a second

        draw_curve(self.rows, self.folder / "curve.png", self.best())
