"""Scores of a small fixed prompt set while training runs, and the best step by a declared rule."""

from __future__ import annotations

import csv
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.evaluation.plan import Draw, Item
from dreambooth.evaluation.score import Encoders, score
from dreambooth.files import atomic, cache_key, file_hash
from dreambooth.metrics.aggregate import best_step, harmonic_mean
from dreambooth.metrics.variants import clip_t_id, dino_id
from dreambooth.model.trainable import TrainableWeights

log = logging.getLogger(__name__)

METRICS = ("dino", "clip_i", "clip_t", "pres")
NAMES = {"dino": "DINO ↑", "clip_i": "CLIP-I ↑", "clip_t": "CLIP-T ↑", "pres": "PRES ↓"}


@dataclass
class Curve:
    """`curve.csv`, a row a scored step under full variant ids, and `curve.png`.

    The best step has the highest harmonic mean of DINO and CLIP-T `class_only`. Only steps after
    `best_after` (the start of the last phase) can be it, so never the model before training;
    None keeps none. Its trained state is `checkpoints/best.safetensors`.

    `drawn_with` says how `draw` draws, as JSON values. Rows that measured anything else (other
    prompts, seeds, photos, encoders, sampling) are no part of this curve: their file is put aside.
    """

    weights: TrainableWeights
    draw: Draw
    items: list[Item]
    photos: list[Path]
    encoders: Encoders
    folder: Path
    best_after: int | None
    drawn_with: dict
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    _measured: str = ""
    _is_other: bool = False  # what curve.csv holds

    def __post_init__(self) -> None:
        self._measured = cache_key(
            items=[asdict(item) for item in self.items],
            drawn_with=self.drawn_with,
            photos=[file_hash(photo) for photo in self.photos],
            encoders=self.encoders.ids,
        )
        path = self.folder / "curve.csv"
        if not path.exists():
            return
        with open(path, newline="") as file:  # of a sitting that was stopped
            read = list(csv.DictReader(file))
        if any(row.pop("measured", None) != self._measured for row in read):
            log.warning("%s measured something else: this sitting begins a new curve.", path)
            self._is_other = True
        else:
            self.rows = [{key: float(value) for key, value in row.items()} for row in read]

    @property
    def best_path(self) -> Path:
        """Where the best step's trained state is kept."""
        return self.folder / "checkpoints" / "best.safetensors"

    def during(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """As an action of a training step."""
        self.score(module.steps_before + trainer.global_step, trainer.loggers)

    def score(self, step: int, loggers: list[Logger]) -> None:
        """Draw and score the model as it is; a step scored before is scored anew."""
        start = time.monotonic()
        prompts, seeds = [i.prompt for i in self.items], [i.seed for i in self.items]
        with torch.no_grad():
            images = self.draw(prompts, seeds)
        summary = score(self.items, images, self.photos, self.encoders, METRICS).summary
        scores = {k: v["mean"] for k, v in summary.items() if not k.startswith("real_ref.")}
        subject, prompt = self._rule(scores)
        row = {"step": step, **scores, "harmonic_mean": harmonic_mean(subject, prompt)}
        self.rows = [r for r in self.rows if r["step"] < step] + [row]
        if step == 0:
            self.best_path.unlink(missing_ok=True)  # of an earlier training in this folder
        if self.best() == step:
            self._keep(row)
        self.seconds += time.monotonic() - start
        self._write()
        draw_curve(self.rows, self.folder / "curve.png", self.best())
        logged = {f"curve/{key}": value for key, value in row.items() if key != "step"}
        for logger in loggers:
            logger.log_metrics(logged, step=step)

    def finish(self, step: int, loggers: list[Logger]) -> None:
        """Score the last step too, if it is not a multiple of n."""
        if not self.rows or self.rows[-1]["step"] < step:
            self.score(step, loggers)

    def best(self) -> int | None:
        """The best step so far; None where none is kept or none can be it."""
        if self.best_after is None:
            return None
        rows = [row for row in self.rows if row["step"] > self.best_after]
        return best_step((int(r["step"]), *self._rule(r)) for r in rows) if rows else None

    def load_best(self) -> int:
        """Put the best step's weights into the model; returns the step.

        Raises:
            UserError: no state was kept, or that of another point: a sitting that was stopped after
                a better step was overwritten, and then went on from before it.
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
        self.weights.load(load_file(state))
        return best

    def _rule(self, scores: dict[str, float]) -> tuple[float, float]:
        dino = scores[dino_id(self.encoders.dino.variant)]
        return dino, scores[clip_t_id(self.encoders.clip.variant, "class_only")]

    def _keep(self, row: dict[str, float]) -> None:
        state = {k: v.detach().cpu().contiguous() for k, v in self.weights.state().items()}
        metadata = {"step": str(row["step"]), "rule": "harmonic", "row": json.dumps(row)}
        with atomic(self.best_path) as temporary:
            save_file(state, temporary, metadata)

    def _write(self) -> None:
        path = self.folder / "curve.csv"
        if self._is_other:
            path.replace(self.folder / f"curve-before-{self._measured}.csv")
            self._is_other = False
        with atomic(path) as temporary, open(temporary, "w") as file:
            writer = csv.DictWriter(file, [*self.rows[-1], "measured"])
            writer.writeheader()
            writer.writerows({**row, "measured": self._measured} for row in self.rows)


def draw_curve(rows: list[dict[str, float]], path: Path, best: int | None) -> None:
    """One panel a metric over optimizer steps, as PNG; the best step is a dashed line."""
    variants = [key for key in rows[0] if key.partition(".")[0] in NAMES]
    panels = list(dict.fromkeys(key.partition(".")[0] for key in variants))
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    steps = [row["step"] for row in rows]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key in variants:
            if key.partition(".")[0] == panel:
                label = key.split(".")[-3] if panel == "clip_t" else None
                axes.plot(steps, [row[key] for row in rows], marker="o", markersize=3, label=label)
        if best is not None:
            axes.axvline(best, linestyle="--", linewidth=1, color="0.5")
        axes.set(title=NAMES[panel], xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        if panel == "clip_t":
            axes.legend(fontsize="x-small", frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
