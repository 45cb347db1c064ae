"""Load every exported file back as its consumer does, and compare what it holds and draws.

What is run is the program that a user is told (`model/snippet.py`), in a process of its own in
which this package cannot be imported.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from dreambooth.errors import reason
from dreambooth.model.rounding import exported_weights
from dreambooth.model.textual_inversion import token_rows
from dreambooth.training.exports.consumer import digest
from dreambooth.training.exports.export import Exported
from dreambooth.training.exports.fresh_process import FreshProcessError, Loaded, fresh_process
from dreambooth.training.logs.memory import free_memory
from dreambooth.training.prepare import Prepared

log = logging.getLogger(__name__)

SMALL = 100_000_000  # parameters of a model that loads in a second or two
# of the mean difference of two pictures, in levels of 255: one is drawn alone and the other in a
# batch, which rounds differently
TOLERANCE = {"float32": 0.5, "float16": 4.0, "bfloat16": 4.0}


@dataclass(frozen=True)
class Verified:
    """How a layout's files did: `mean` and `most` are differences in levels of 255.

    `tensors` are those that the run exports, `loaded` those of them that its consumer holds with
    the same values. `error` is what went wrong, None if nothing did.
    """

    mean: float | None = None
    most: int | None = None
    tensors: int = 0
    loaded: int = 0
    error: str | None = None


def is_verified(prepared: Prepared) -> bool:
    """Tell whether a run verifies its exports.

    With `export.verify=auto` it does where that takes seconds: the model is small, or on a GPU.
    """
    export, is_on_gpu = prepared.spec.export, prepared.spec.hardware.device == "cuda"
    if export.kind == "none" or export.verify != "auto":
        return export.kind != "none" and export.verify is True
    return is_on_gpu or sum(p.numel() for p in prepared.model.parameters()) <= SMALL


def prepare_verification(prepared: Prepared) -> None:
    """Start the process that `verify` uses: its imports go on while the run draws and scores."""
    if is_verified(prepared):
        try:
            fresh_process().start(_pipeline(prepared))
        except OSError as error:  # `verify` tries again, and says so
            log.debug("No process to verify exports in yet (%s).", error)


def verify(prepared: Prepared, exported: Exported, own: Image.Image) -> dict[str, dict[str, Any]]:
    """Verify every layout that was exported, by layout; {} if the run asks for none.

    Args:
        own: the first of the run's final samples.
    """
    if not is_verified(prepared):
        return {}
    free_memory()  # another process needs it now
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trained, results = _trained(prepared), {}
    tolerance = TOLERANCE[prepared.spec.sampling.dtype]
    for layout, program in exported.programs.items():
        files = exported.adapters.get(layout, ())
        try:
            loaded = fresh_process().run(program, _pipeline(prepared))
            result = compared(loaded, own, trained, files, tolerance)
        except (FreshProcessError, OSError) as error:  # of a full disk, too
            result = Verified(error=f"it cannot be loaded ({reason(error)})")
        results[layout] = asdict(result)
        if result.error is not None:
            log.error("The %s export is not as it should be: %s.", layout, result.error)
    return results


def compared(
    loaded: Loaded,
    own: Image.Image,
    trained: Sequence[str],
    adapters: Sequence[Path],
    tolerance: float,
) -> Verified:
    """Compare what a consumer has loaded with the run.

    Args:
        own: the run's picture.
        trained: hashes of the tensors that the run exports.
        adapters: files of which every tensor must be in a layer.
        tolerance: of the pictures' mean difference, in levels of 255.
    """
    values = {name: Counter(digests) for name, digests in loaded.held.items()}
    ours, theirs = (np.asarray(each.convert("RGB"), dtype=np.int16) for each in (own, loaded.image))
    if ours.shape != theirs.shape:
        return Verified(error="it draws a picture of another size")
    difference = np.abs(ours - theirs)
    mean, most = round(float(difference.mean()), 4), int(difference.max())
    in_files = Counter(each for file in adapters for each in _digests(file))
    lost = (in_files - values["adapters"]).total()
    wrong = (Counter(trained) - (values["weights"] + values["words"])).total()
    error = None
    if lost:
        error = f"{lost} of the adapter's {in_files.total()} tensors are in no layer"
    elif wrong:
        error = f"{wrong} of the {len(trained)} tensors that it holds are not as they were trained"
    elif mean > tolerance:
        error = f"it draws another picture than the run (mean difference {mean:.2f} of 255)"
    return Verified(mean, most, len(trained), len(trained) - wrong, error)


def _trained(prepared: Prepared) -> list[str]:
    """Hash what the run exports, as the model holds it: rounded to `export.dtype`."""
    model, kind, token = prepared.model, prepared.spec.export.kind, prepared.spec.method.token
    tensors = exported_weights(model, kind)
    if token is not None and kind != "full":
        tensors += [row for rows in token_rows(model, token).values() for row in rows]
    return [digest(tensor) for tensor in tensors]


def _digests(file: Path) -> list[str]:
    """Hash a file's tensors, without the alphas of kohya's layout."""
    return [digest(x) for name, x in load_file(file).items() if not name.endswith(".alpha")]


def _pipeline(prepared: Prepared) -> str:
    return prepared.model.layout.pipeline.__name__
