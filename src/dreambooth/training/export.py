"""Write what a run has learned, in the kind, dtype and layouts that it asks for."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.files import atomic, file_hash
from dreambooth.model.adapters.lora_files import save_lora
from dreambooth.model.adapters.peft_files import save_peft
from dreambooth.model.peft_layers import merge_adapters
from dreambooth.model.rounding import exported_weights, holds, round_weights, tensors_hash
from dreambooth.model.snippet import Picture, snippet
from dreambooth.model.textual_inversion import TOKEN_FILE, save_token
from dreambooth.sampling.provenance import export_hashes
from dreambooth.training.prepare import Prepared
from dreambooth.weights_files import content_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What was written: `hashes` name the weights, `program` are lines of Python that draw."""

    hashes: dict[str, str]
    program: str | None

    @property
    def identity(self) -> str:
        """The hash that names the weights."""
        return self.hashes.get("export") or self.hashes["trained"]


def export(prepared: Prepared) -> Exported:
    """Write `model/` of a run, whole or not at all; the model then holds what was written.

    With `export.kind=full` adapters are merged. Weights are rounded to `export.dtype` in the model
    too, so that samples and scores are of the files. Networks that did not train are hard links to
    one copy in the cache, where the file system can.
    """
    spec, model, folder = prepared.spec, prepared.model, prepared.spec.folder / "model"
    kind = spec.export.kind
    if kind == "none":
        shutil.rmtree(folder, ignore_errors=True)  # it is of other weights
        return Exported(_trained(prepared), None)
    if kind == "full":
        merge_adapters(model)
    dtype = _dtype(prepared)
    round_weights(model, kind, dtype)
    scheduler = spec.samples.set.sampling.build(model.noise_scheduler)
    with atomic(folder) as new:
        if kind == "full":
            model.export(new, scheduler, dtype)
        elif kind == "lora":
            save_lora(model, new, dtype)
        elif kind == "adapter":
            save_peft(model, new, dtype)
        if kind != "full" and spec.method.token is not None:
            save_token(model, spec.method.token, new / TOKEN_FILE, dtype)
    if kind == "full":
        _share_frozen(prepared, folder)
    exported = folder / TOKEN_FILE if kind == "token" else folder
    program = snippet(model, kind, exported, scheduler, picture_of(prepared))
    return Exported(export_hashes(folder, model.weights_hash), program)


def earlier_hash(folder: Path) -> str | None:
    """Hash what a run's folder holds of an earlier export; None if it holds none."""
    return content_hash(folder / "model") if any((folder / "model").glob("*")) else None


def picture_of(prepared: Prepared) -> Picture:
    """Describe the first of the run's samples, for other programs to draw."""
    samples = prepared.spec.samples.set
    return Picture(
        samples.prompts[0],
        samples.seeds[0],
        samples.sampling.num_inference_steps,
        samples.sampling.guidance_scale,
        samples.sampling.resolution,
        samples.sampling.negative_prompt,
        prepared.spec.hardware.device,
        samples.sampling.dtype,
    )


def _trained(prepared: Prepared) -> dict[str, str]:
    """Name trained weights of which no file is left."""
    return {
        "trained": tensors_hash(prepared.weights.state()),
        "base": prepared.model.weights_hash(),
    }


def _dtype(prepared: Prepared) -> torch.dtype:
    """Return the dtype to write, float32 with a warning where a value is beyond the one asked."""
    asked = prepared.spec.export.dtype
    tensors = exported_weights(prepared.model, prepared.spec.export.kind)
    if holds(getattr(torch, asked), tensors):
        return getattr(torch, asked)
    log.warning("The weights have values that %s cannot hold: exported as float32.", asked)
    return torch.float32


def _share_frozen(prepared: Prepared, folder: Path) -> None:
    """Replace the files of networks that did not train by hard links to one copy of each."""
    model, trained = prepared.model, set()
    for phase in prepared.spec.method.phases:
        trained |= {name for name, kind in phase.parts.kinds(model).items() if kind != "frozen"}
    for name in sorted(set(model.layout.networks) - trained):
        for file in sorted((folder / name).glob("*.safetensors")):
            share(file, prepared.spec.cache_dir / "exported")


def share(file: Path, store: Path) -> bool:
    """Make a file a hard link to the one copy of its bytes in `store`; tell whether it is.

    The copy is verified first, and written anew if it is damaged. It is read-only, because what
    is written into one of the links is written into all.
    """
    kept = store / f"{file_hash(file)}{file.suffix}"
    try:
        store.mkdir(parents=True, exist_ok=True)
        if kept.is_file() and kept.stem == file_hash(kept):
            _replace_by_link(kept, file)
        else:
            _replace_by_link(file, kept)
        kept.chmod(0o444)
    except OSError as error:  # another file system, one without links, or too many of them
        log.debug("%s is a copy of its own (%s).", file, error)
        return False
    return True


def _replace_by_link(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # which stays where both are one file already
