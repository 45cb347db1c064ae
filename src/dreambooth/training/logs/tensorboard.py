"""What of a run TensorBoard shows: `tensorboard --logdir DIR`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dreambooth.sampling.manifest import Item
from dreambooth.training.logs.shown_names import Shown

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
PHOTO = 512  # side of a photo, pixels


class TensorBoard:
    """A viewer of training: numbers as scalars, samples by prompt, photos, scores.

    Args:
        done: the step from which the run goes on; what an earlier session showed from there on is
            hidden. None hides nothing.
    """

    def __init__(self, folder: Path, done: int | None) -> None:
        from pytorch_lightning.loggers import TensorBoardLogger

        self.is_new = not any((folder / FOLDER).glob("events.*"))
        purge = None if self.is_new else done
        self.logger = TensorBoardLogger(folder, name="", version=FOLDER, purge_step=purge)

    @classmethod
    def again(cls, folder: Path) -> TensorBoard | None:
        """Go on with the files of a finished run; None without files, or without TensorBoard."""
        is_there = (folder / FOLDER).is_dir() and find_spec("tensorboard") is not None
        return cls(folder, None) if is_there else None

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        self.logger.log_metrics(dict(numbers), step)

    def samples(self, folder: Path, items: Sequence[Item], step: int) -> None:
        """Write sample images, each under its prompt and seed."""
        for item in items:
            self._image(f"samples/{Path(item.file).stem}", folder / item.file, step)

    def photos(self, files: Sequence[Path]) -> None:
        """Write the photos, turned upright and made smaller."""
        if self.is_new:
            for number, file in enumerate(files):
                self._image(f"photos/{number:02d}", file, 0)

    def scores(self, shown: Shown, folder: Path, step: int) -> None:
        """Write the scores as scalars, and what was computed as text."""
        self.logger.log_metrics(dict(shown.numbers), step)
        lines = [f"- {name}: `{variant}`" for name, variant in shown.variants.items()]
        self._writer.add_text(f"{shown.name}/variants", "\n".join(lines), step)

    def end(self, costs: Mapping[str, float], export: Path | None, failed: bool) -> None:
        """Write what the run cost, and close the file."""
        if costs:
            self._writer.add_text("cost", "\n".join(f"- {k}: {v}" for k, v in costs.items()))
        self._writer.close()

    @property
    def _writer(self) -> Any:
        return self.logger.experiment

    def _image(self, tag: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.thumbnail((PHOTO, PHOTO))
        self._writer.add_image(tag, np.asarray(upright), step, dataformats="HWC")
