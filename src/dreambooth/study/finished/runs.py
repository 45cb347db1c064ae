"""A finished run read back: its record, configuration, scores and model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.write import scores_folder
from dreambooth.files import reading
from dreambooth.model.adapters.lora_files import load_adapters
from dreambooth.model.architectures import load_model
from dreambooth.model.interface import BaseModel
from dreambooth.model.token_files import TOKEN_FILE, load_token
from dreambooth.quoting import quoted, typed
from dreambooth.records import FIX, TABLES, first_changed, read_record, read_table
from dreambooth.sampling.spec import Sampling
from dreambooth.scratch import find_files
from dreambooth.study.finished.base_model import load_base
from dreambooth.study.finished.sweeps import refuse_sweep
from dreambooth.training.logs.run_log import read_rows

RECORD = ("config", "written", "sampling")  # keys of run.json that earlier versions did not write


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
        refuse_sweep(folder)
        if not folder.is_dir():
            raise UserError(
                f"run={folder} is not a folder: give the output folder of a train.py run."
            )
        try:
            record = read_record(folder / "run.json")
        except UserError as error:
            raise UserError(
                f"run={folder} is not a finished run ({error}): finish it with "
                f"`python train.py {typed(f'hydra.run.dir={quoted(folder)}')}` and the same "
                "options."
            ) from None
        if not set(RECORD) <= record.keys():
            raise UserError(
                f"{folder / 'run.json'} was written by an earlier version: repeat the command that "
                "made it, in the same folder; nothing is trained again."
            )
        return cls(folder, record)

    @property
    def written_at(self) -> float:
        """When the run's record was written, in seconds since 1970."""
        return (self.folder / "run.json").stat().st_mtime

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that the run ended with, as plain values."""
        return {**self.record["config"], "output_dir": str(self.folder)}

    def reading(self) -> AbstractContextManager[None]:
        """Turn what a damaged record causes in the block into one sentence that names it."""
        return reading(self.folder / "run.json", FIX)

    @property
    def base(self) -> Mapping[str, Any]:
        """The base model: its name, path, revision, variant and sequence length, if any."""
        with self.reading():
            model = self.record["model"]
            base = {key: model[key] for key in ("name", "path", "revision", "variant")}
            # earlier versions had no model with one
            return base | {"max_sequence_length": model.get("max_sequence_length")}

    @property
    def sampling(self) -> Sampling:
        """The sampler and settings that the run drew with."""
        with self.reading():
            return Sampling(**self.record["sampling"])

    @property
    def words(self) -> SubjectWords:
        """The words that name the subject in prompts."""
        with self.reading():
            subject = self.record["subject"]
            return SubjectWords(
                self.record["subject_phrase"],
                subject["class_noun"],
                self.config["class_prompt"],
                subject["live"],
            )

    @property
    def photos(self) -> list[Path]:
        """All photos of the subject, with which scores compare."""
        with self.reading():
            return [Path(path) for path in self.record["photos"]]

    @property
    def training_photos(self) -> list[Path]:
        """The photos that the run was trained on."""
        with self.reading():
            return self.photos[: self.record.get("photos_used")]

    @property
    def last_step(self) -> int:
        """The optimizer steps of all phases, up to where the run stopped."""
        with self.reading():
            steps = sum(phase["max_steps"] for phase in self.config["method"]["phases"])
            return int(self.record.get("stopped_early_at") or steps)

    @property
    def evaluations(self) -> list[str]:
        """Names of the evaluations that scored the run, sorted."""
        return sorted(path.parent.name for path in self.folder.glob("evaluation/*/metrics.json"))

    def metrics(self, evaluation: str | None = None) -> dict[str, Any]:
        """Return the metrics.json of an evaluation; {} if it did not score the run.

        None means the evaluation that the run was configured with; if that did not score it, the
        first that did.

        Raises:
            UserError: a file that cannot be read.
        """
        with self.reading():
            name, scored = evaluation or str(self.config["evaluation"]["name"]), self.evaluations
        if name not in scored and evaluation is None and scored:
            name = scored[0]
        if name not in scored:
            return {}
        path = scores_folder(self.folder, name) / "metrics.json"
        try:
            return read_record(path)
        except UserError as error:
            raise UserError(
                f"{error}: score the run again with `python evaluate.py "
                f"{typed(f'run={quoted(self.folder)}')} evaluation={name}`."
            ) from None

    def check_export(self) -> None:
        """Compare the files of the exported model with the hashes in the record, if it has any.

        Raises:
            UserError: names the first file that is missing or has other bytes.
        """
        with self.reading():
            recorded = dict(self.record.get("exported") or {})
        changed = first_changed(self.folder / "model", recorded)
        if changed is not None:
            state = "is not what the run exported" if changed.is_file() else "is missing"
            raise UserError(
                f"{changed} {state}: run the run's command again; it is exported anew from the "
                "last checkpoint."
            )

    def require_model(self) -> None:
        """Refuse a run that exported no model.

        Raises:
            UserError: says how to get one.
        """
        with self.reading():
            kind = self.record["export"]
        if kind == "none":
            raise UserError(
                f"{self.folder} has no model, as export.kind=none asked: pass step=N for a step "
                "that has a checkpoint, or train it with export.kind=auto."
            )

    def load_model(self) -> BaseModel:
        """Load the model as it was exported: a pipeline, or its base with what was learned.

        Raises:
            UserError: a damaged record or model, or no model at all.
        """
        self.require_model()
        self.check_export()
        learned, kind = self.folder / "model", self.record["export"]
        if kind == "full":
            return load_model(str(learned), max_sequence_length=self.base["max_sequence_length"])
        model = load_base(self.base)
        if kind in ("lora", "adapter"):
            load_adapters(model, learned)
        if kind == "token" or (learned / TOKEN_FILE).exists():
            load_token(model, learned)
        return model.requires_grad_(False).eval()

    def log(self) -> list[dict[str, str]]:
        """Return the rows of the run's log, `metrics.csv`, each with its `step`.

        There are none while a training goes on, or another one begins, in the folder of a run that
        has finished: what it logs is not what the record is of. The same holds for `curve`.

        Raises:
            UserError: a file that has changed since the record was written.
        """
        return read_rows(self.folder, self.record) if self._is_known("metrics.csv") else []

    def _is_known(self, table: str) -> bool:
        """Tell whether a table belongs to the record; an earlier version's names none."""
        known = self.record.get(TABLES)
        return not isinstance(known, Mapping) or table in known

    def curve(self) -> list[dict[str, float]]:
        """Return the scores while training, by step (`curve.csv`): a row has `step` and ids."""
        path, rows = self.folder / "curve.csv", []
        with reading(path, FIX):
            for line in read_table(path, self.record, FIX) if self._is_known(path.name) else []:
                line.pop("measured", None)
                rows.append({key: float(value) for key, value in line.items() if value})
        return rows

    def last_losses(self) -> dict[str, float]:
        """Return the last logged instance and prior losses."""
        columns, last = ("loss/instance", "loss/prior"), {}
        with reading(self.folder / "metrics.csv", FIX):
            for line in self.log():
                last |= {
                    column: round(float(line[column]), 4) for column in columns if line.get(column)
                }
        return last


def find_runs(folder: Path) -> list[Path]:
    """List every finished run below a folder, sorted."""
    return [path.parent for path in find_files(folder, "run.json")]
