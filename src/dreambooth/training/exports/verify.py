"""Load every exported file back as its consumer does, and draw the run's own picture with it.

What is run is the program that a user is told (`model/snippet.py`), word for word.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from dreambooth.errors import reason
from dreambooth.model.loading import keep_random_state
from dreambooth.training.exports.export import Exported
from dreambooth.training.logs.memory import free_memory
from dreambooth.training.prepare import Prepared

log = logging.getLogger(__name__)

SMALL = 100_000_000  # parameters of a model that loads in a second or two
# of the mean difference of two pictures, in levels of 255: one is drawn alone and the other in a
# batch, which rounds differently
TOLERANCE = {"float32": 0.5, "float16": 4.0, "bfloat16": 4.0}
# appended to a program: hashes of the tensors that its adapters hold
LOADED = """
import hashlib
from peft.tuners.tuners_utils import BaseTunerLayer
parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
layers = [m for part in parts for m in part.modules() if isinstance(m, BaseTunerLayer)]
held = [x for layer in layers for x in layer.state_dict(keep_vars=True).items()]
own = [x.detach().float().cpu() for name, x in held if not name.startswith("base_layer.")]
loaded = [hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest() for x in own]
"""
FRESH_TIMEOUT = 1800.0  # seconds; loading from a slow disk


@dataclass(frozen=True)
class Verified:
    """How a layout's files did: `mean` and `most` are differences in levels of 255.

    `tensors` are those of the adapter files, `loaded` those of them that a network holds.
    `process` is `same` or `fresh`. `error` is what went wrong, None if nothing did.
    """

    process: str
    mean: float | None = None
    most: int | None = None
    tensors: int = 0
    loaded: int = 0
    error: str | None = None


def verify(prepared: Prepared, exported: Exported, own: Image.Image) -> dict[str, dict[str, Any]]:
    """Verify every layout that was exported, by layout; {} if the run asks for none.

    With `export.verify=auto` in this process, where that takes seconds: the model is small, or on
    a GPU. With `true` each in a fresh process, which holds nothing of this one.

    Args:
        own: the first of the run's final samples.
    """
    asked = prepared.spec.export.verify
    if asked is False or not exported.programs or (asked == "auto" and not _is_quick(prepared)):
        return {}
    tolerance = TOLERANCE[prepared.spec.sampling.dtype]
    results = {}
    for layout, program in exported.programs.items():
        result = _verified(
            program, exported.adapters.get(layout, ()), own, asked is True, tolerance
        )
        results[layout] = asdict(result)
        if result.error is not None:
            log.error("The %s export is not as it should be: %s.", layout, result.error)
    return results


def _verified(
    program: str, adapters: Sequence[Path], own: Image.Image, fresh: bool, tolerance: float
) -> Verified:
    process = "fresh" if fresh else "same"
    try:
        image, held = _run_fresh(program) if fresh else _run_here(program)
    except torch.OutOfMemoryError as error:
        return Verified(process, error=f"the memory does not hold a second model ({reason(error)})")
    except Exception as error:  # whatever a consumer raises
        return Verified(process, error=f"it cannot be loaded ({reason(error)})")
    tensors = Counter(digest for file in adapters for digest in _digests(file))
    loaded = (tensors & Counter(held)).total()
    ours, theirs = (np.asarray(each.convert("RGB"), dtype=np.int16) for each in (own, image))
    if ours.shape != theirs.shape:
        return Verified(process, error="it draws a picture of another size")
    difference = np.abs(ours - theirs)
    mean, most = round(float(difference.mean()), 4), int(difference.max())
    error = None
    if loaded < tensors.total():
        lost = tensors.total() - loaded
        error = f"{lost} of the adapter's {tensors.total()} tensors are in no layer"
    elif mean > tolerance:
        error = f"it draws another picture than the run (mean difference {mean:.2f} of 255)"
    return Verified(process, mean, most, tensors.total(), loaded, error)


def _run_here(program: str) -> tuple[Image.Image, list[str]]:
    """Run a program in this process; return its picture and the hashes of its adapters."""
    names: dict[str, Any] = {}
    source = program.partition("image.save(")[0] + LOADED
    try:
        with keep_random_state(), _silent():
            exec(compile(source, "exported", "exec"), names)  # our own text
        return names["image"], names["loaded"]
    finally:
        names.clear()
        free_memory()


def _run_fresh(program: str) -> tuple[Image.Image, list[str]]:
    """Run a program in a process of its own; return its picture and its adapters' hashes.

    Raises:
        ValueError: it failed; the last line that it wrote.
    """
    source = f"{program}{LOADED}\nprint('\\n' + ' '.join(loaded))\n"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", source],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=FRESH_TIMEOUT,
        )
        if done.returncode:
            raise ValueError((done.stderr.strip().splitlines() or ["it ended"])[-1])
        with Image.open(Path(folder) / "out.png") as image:
            return image.copy(), done.stdout.splitlines()[-1].split()


def _digests(file: Path) -> list[str]:
    """Hash a file's tensors, in float32, without the alphas of kohya's layout."""
    state = load_file(file)
    own = [tensor.float() for name, tensor in state.items() if not name.endswith(".alpha")]
    return [hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest() for x in own]


def _is_quick(prepared: Prepared) -> bool:
    is_small = sum(p.numel() for p in prepared.model.parameters()) <= SMALL
    return is_small or prepared.spec.hardware.device == "cuda"


@contextmanager
def _silent() -> Iterator[None]:
    """Hide the bars of loading and drawing, and libraries' warnings of what is as it should be."""
    loggings = (diffusers_logging, transformers_logging)
    levels = [each.get_verbosity() for each in loggings]
    for each in loggings:
        each.set_verbosity_error()
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        for each, level in zip(loggings, levels, strict=True):
            each.set_verbosity(level)
