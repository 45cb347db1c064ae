"""What of a run Weights & Biases shows, and under which keys."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from dreambooth.files import write_json
from dreambooth.sampling.manifest import Item, slug
from dreambooth.training.logs.shown_names import Shown
from dreambooth.training.logs.wandb_session import FOLDER, Run, Session, WandbNames
from dreambooth.training.output_spec import LoggerSpec

NOTE = "this_run.json"  # in the folder of W&B's files: what W&B calls the run
PHOTO = 512  # side of a photo, pixels; W&B shows smaller ones
WAIT = 5.0  # seconds, for a run that was recorded without them


class WandbRun:
    """A viewer of training: losses, curves, samples by prompt, scores, a table of scored images.

    Keys before a slash are panel groups: `loss/instance`, `loss/prior`, `curve/dino`,
    `samples/00_a-sks-dog`, `score/dino`. `step` is the axis of all.
    """

    def __init__(self, session: Session, is_new: bool, artifacts: bool = False) -> None:
        self.session, self.is_new, self.artifacts = session, is_new, artifacts

    @classmethod
    def begun(cls, folder: Path, spec: LoggerSpec, begins_anew: bool) -> WandbRun:
        """Begin the W&B run of a training, or go on with it; one that begins anew is another."""
        names = WandbNames("", spec.project, spec.name, spec.group, "train", tuple(spec.tags))
        names, is_new = known_as(folder, NOTE, names, spec.wait, begins_anew)
        return cls(Session(folder, names, spec.config, spec.wait), is_new, spec.artifacts)

    @classmethod
    def again(cls, folder: Path) -> WandbRun | None:
        """Go on with the W&B run of a finished run; None if it has none."""
        known = logged_as(folder)
        if known is None:
            return None
        names, wait = known
        return cls(Session(folder, names, {}, wait), is_new=False)

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""
        self.session.send(lambda run: run.log({**numbers, "step": step}))

    def samples(self, folder: Path, items: Sequence[Item], step: int) -> None:
        """Log sample images: a key for each prompt, with its seeds side by side."""
        by_prompt: dict[str, list[Item]] = {}
        for item in items:
            by_prompt.setdefault(item.file.rpartition("_seed")[0], []).append(item)

        def call(run: Run) -> None:
            shown = {
                f"samples/{key}": [image(folder / i.file, _caption(i)) for i in group]
                for key, group in by_prompt.items()
            }
            run.log({**shown, "step": step})

        self.session.send(call)

    def photos(self, files: Sequence[Path]) -> None:
        """Log the photos, turned upright and made smaller."""
        if self.is_new:
            self.session.send(
                lambda run: run.log({"photos/subject": [_photo(f) for f in files], "step": 0})
            )

    def scores(self, shown: Shown, folder: Path, step: int) -> None:
        """Log each score once, so that a chart has a bar for each run, and the table of images."""

        def call(run: Run) -> None:
            import wandb

            files = [folder / row[0] for row in shown.rows]
            images = [image(file) if file.is_file() else None for file in files]
            rows = [[shot, *row[1:]] for shot, row in zip(images, shown.rows, strict=True)]
            headers: list[Any] = ["image", *shown.columns[1:]]
            table = wandb.Table(columns=headers, data=rows)
            ids = {f"variant_{name}": variant for name, variant in shown.variants.items()}
            run.config.update(ids, allow_val_change=True)
            run.log({**shown.numbers, f"table/{shown.name}": table, "step": step})

        self.session.send(call)

    def end(self, costs: Mapping[str, float], export: Path | None, failed: bool) -> None:
        """Log what the run cost, and its export if `logger.artifacts` asks for it; close."""
        if costs:
            self.session.send(lambda run: run.summary.update(costs))
        if export is not None and self.artifacts:
            self.session.send(lambda run: _log_export(run, export))
        self.session.close(failed)


def known_as(
    folder: Path, note: str, names: WandbNames, wait: float, begins_anew: bool = False
) -> tuple[WandbNames, bool]:
    """Give a run the id that a note in its folder says, or a new one; write the note.

    Args:
        names: of the run, without an id.
        wait: seconds that the end of each of its sessions waits for W&B, at most.
        begins_anew: whether an earlier id is of another training.

    Returns:
        the names with their id, and whether it is new. An agent of a sweep of W&B's chooses the id.
    """
    path = folder / FOLDER / note
    earlier = None if begins_anew else (_read(path) or {}).get("id")
    chosen = os.environ.get("WANDB_RUN_ID") if names.job_type == "train" else None
    names = replace(names, id=chosen or earlier or secrets.token_hex(4))
    write_json(path, {**asdict(names), "wait": wait})
    return names, names.id != earlier


def logged_as(folder: Path) -> tuple[WandbNames, float] | None:
    """Read what W&B calls the run in `folder`, and how long its end may wait; None: not logged."""
    note = _read(folder / FOLDER / NOTE)
    try:
        values = dict(note or {})
        wait = float(values.pop("wait", WAIT))
        return WandbNames(**{**values, "tags": tuple(values["tags"])}), wait
    except (KeyError, TypeError, ValueError):  # no note, or a damaged one
        return None


def _read(note: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(note.read_text("utf-8"))
        return known if isinstance(known, dict) and known.get("id") else None
    except (OSError, ValueError):
        return None


def _caption(item: Item) -> str:
    return f"{item.prompt} (seed {item.seed})"


def image(path: Path, caption: str | None = None) -> Any:
    """Make W&B's picture of a file, which it copies as it is."""
    import wandb

    return wandb.Image(str(path), caption=caption)


def _photo(path: Path) -> Any:
    import wandb

    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    upright.thumbnail((PHOTO, PHOTO))
    return wandb.Image(upright, caption=path.name)


def _log_export(run: Run, export: Path) -> None:
    """Log the exported model; its files are read where they lie, and not copied first."""
    import wandb

    artifact = wandb.Artifact(f"{slug(run.name)}-model", "model", metadata=dict(run.config))
    artifact.add_dir(str(export.absolute()), policy="immutable")
    run.log_artifact(artifact)
