"""Finished runs read back: the record, the configuration, the scores and the model."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.write import scores_folder
from dreambooth.model.lora import load_lora
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.textual_inversion import load_token
from dreambooth.pocket.embedded import model_path
from dreambooth.quoting import quoted, typed
from dreambooth.sampling.spec import Sampling
from dreambooth.study.settings import flat, scored_with


@dataclass(frozen=True)
class Run:
    """A finished run; `record` is its run.json."""

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Read a finished run's folder.

        Raises:
            UserError: no such folder, a run that did not end, or an earlier version's record.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(
                f"run={folder} is not a folder: give the output folder of a train.py run."
            )
        try:
            record = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"run={folder} is not a finished run ({error}): finish it with "
                f"`python train.py {typed(f'hydra.run.dir={quoted(folder)}')}` and the same "
                "options."
            ) from None
        if not {"config", "written", "sampling"} <= record.keys():
            raise UserError(
                f"{folder / 'run.json'} was written by an earlier version: repeat the command that "
                "made it, in the same folder; nothing is trained again."
            )
        return cls(folder, record)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that the run ended with, as plain values."""
        return {**self.record["config"], "output_dir": str(self.folder)}

    @property
    def sampling(self) -> Sampling:
        """The sampler and settings that the run drew with."""
        return Sampling(**self.record["sampling"])

    @property
    def words(self) -> SubjectWords:
        """The words that name the subject in prompts."""
        subject = self.record["subject"]
        return SubjectWords(
            self.record["subject_phrase"],
            subject["class_noun"],
            self.config["class_prompt"],
            subject["live"],
        )

    def metrics(self, evaluation: str | None = None) -> dict[str, Any]:
        """Return the metrics.json of an evaluation; {} if the run was not scored by it.

        None is the evaluation that the run was configured with, or without one the first that
        evaluate.py made.
        """
        folders = sorted(path.parent for path in self.folder.glob("evaluation/*/metrics.json"))
        own = scores_folder(self.folder, evaluation or self.config["evaluation"]["name"])
        chosen = [own] if own in folders else folders[:1] if evaluation is None else []
        return json.loads((chosen[0] / "metrics.json").read_text()) if chosen else {}

    def load_model(self) -> LatentDiffusion:
        """Load the model as it was exported: a pipeline, or its base with what was learned."""
        learned, base = self.folder / "model", self.record["model"]
        if self.record["export"] == "full":
            return LatentDiffusion.from_pretrained(str(learned))
        model = LatentDiffusion.from_pretrained(
            model_path(base["path"]), base["revision"], base["variant"]
        )
        if self.record["export"] == "lora":
            load_lora(model, learned)
        else:
            load_token(model, learned / "learned_embeds.safetensors")
        return model.requires_grad_(False).eval()

    def last_losses(self) -> dict[str, float]:
        """Return the last logged instance and prior losses."""
        columns, last = ("loss/instance", "loss/prior"), {}
        path = self.folder / "metrics.csv"
        if path.exists():
            with open(path, newline="") as file:
                for line in csv.DictReader(file):
                    last |= {c: round(float(line[c]), 4) for c in columns if line.get(c)}
        return last


def find_runs(folder: Path) -> list[Path]:
    """List every finished run below a folder, sorted."""
    return sorted(path.parent for path in Path(folder).rglob("run.json"))


def read_rows(folder: Path, evaluation: str | None = None) -> list[dict[str, Any]]:
    """Read one row per run: `run` (its name), `settings` (flat), `scores` by variant id, costs.

    `settings` holds the configuration and, under `scored.*`, what the scores depend on beside it;
    `written` the same before references between keys (`${lr}`) were resolved.
    """
    rows = []
    for path in find_runs(folder):
        run = Run.read(path)
        metrics = run.metrics(evaluation)
        scored = scored_with(metrics)
        scores = metrics.get("scores", {})
        rows.append(
            {
                "run": str(path.relative_to(folder)),
                "folder": path,
                "record": run.record,
                "metrics": metrics,
                "settings": flat(run.config) | scored,
                "written": flat(run.record["written"]) | scored,
                "scores": {variant: entry["mean"] for variant, entry in scores.items()},
                "names": {variant: entry["metric"] for variant, entry in scores.items()},
                "losses": run.last_losses(),
            }
        )
    return rows
