"""Write what a run has learned, in the kind, dtype and layouts that it asks for."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dreambooth.errors import UserError
from dreambooth.files import atomic, file_hash
from dreambooth.model.adapters.extraction import extract_lora, total_error
from dreambooth.model.adapters.kohya_files import save_kohya
from dreambooth.model.adapters.lora_files import put_adapters, save_lora
from dreambooth.model.adapters.peft_files import save_peft
from dreambooth.model.architectures import load_model
from dreambooth.model.peft_layers import merge_adapters
from dreambooth.model.rounding import (
    exported_weights,
    holds,
    round_token,
    round_weights,
    tensors_hash,
)
from dreambooth.model.single_file import save_single_file
from dreambooth.model.snippet import Picture, snippet
from dreambooth.model.token_files import TOKEN_FILE, save_token
from dreambooth.pocket.embedded import model_path
from dreambooth.sampling.provenance import export_hashes
from dreambooth.scratch import remove_leftovers
from dreambooth.training.exports.file_metadata import metadata_of
from dreambooth.training.prepare import Prepared
from dreambooth.weights_files import sort_header

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        hashes: name the weights.
        programs: lines of Python that draw the run's first sample, by layout.
        adapters: files whose tensors are those of adapters, by layout.
    """

    hashes: Mapping[str, str]
    programs: Mapping[str, str]
    adapters: Mapping[str, Sequence[Path]]


def export(prepared: Prepared, written: Callable[[Mapping[str, str]], None]) -> Exported:
    """Write `model/` and `exports/` of a run, each whole or not at all.

    The model then holds what was written: with `export.kind=full` adapters are merged, and weights
    are rounded to `export.dtype`, so that samples and scores are of the files. Networks that did
    not train are hard links to one copy in the cache, where the file system can.

    Args:
        written: is given the hashes that name the weights as soon as `model/` is whole.
    """
    spec, model, run = prepared.spec, prepared.model, prepared.spec.folder
    kind, folder, beside = spec.export.kind, run / "model", run / "exports"
    shutil.rmtree(beside, ignore_errors=True)  # they are of other weights
    if kind == "none":
        shutil.rmtree(folder, ignore_errors=True)
        hashes = _trained(prepared)
        written(hashes)
        return Exported(hashes, {}, {})
    if kind == "full":
        merge_adapters(model)
    elif spec.export.rank is not None:
        _become_lora(prepared, spec.export.rank)
    dtype = _dtype(prepared)
    if dtype != torch.float32:
        round_weights(model, kind, dtype)
        round_token(model, spec.method.token, dtype)
    with atomic(folder) as new:
        _write_model(prepared, new, dtype)
    if kind == "full":
        _share_frozen(prepared, folder)
    hashes = export_hashes(folder, model.weights_hash)
    written(hashes)
    others = [layout for layout in spec.export.layouts if layout != "diffusers"]
    if others:
        with atomic(beside) as new:
            for layout in others:
                _write_layout(prepared, layout, new / layout, dtype)
    places = {layout: _place(prepared, layout) for layout in ("diffusers", *others)}
    scheduler, picture = (
        spec.samples.set.sampling.build(model.process),
        picture_of(prepared),
    )
    programs = {
        layout: snippet(model, _loaded_as(kind, layout), place, scheduler, picture)
        for layout, place in places.items()
    }
    adapters = {
        layout: [f for f in _files(place) if f.name != TOKEN_FILE]
        for layout, place in places.items()
        if kind in ("lora", "adapter")
    }
    return Exported(hashes, programs, adapters)


def _become_lora(prepared: Prepared, rank: int) -> None:
    """Put the base model's weights back, and the nearest LoRA to what training made of them."""
    spec, model, own = prepared.spec, prepared.model, prepared.spec.model
    merge_adapters(model)
    base = load_model(model_path(own.path), own.revision, own.variant, own.max_sequence_length)
    found = {}
    for name in model.trainable_networks:
        model.restore(name)
        before, after = base.base_state(name), model.base_state(name)
        found[name] = extract_lora(before, after, rank, device=spec.hardware.device)
        for key, tensor in before.items():
            after[key][: len(tensor)].copy_(tensor)  # an embedding matrix may have new rows
    put_adapters(model, {name: each.adapter for name, each in found.items() if each.layers})
    errors = [total_error([*found.values()], with_left_out=left_out) for left_out in (False, True)]
    log.info(
        "A LoRA of rank %d lacks %.0f %% of the change of its layers, %.0f %% of the whole change.",
        rank,
        *(100 * error for error in errors),
    )


def _write_model(prepared: Prepared, folder: Path, dtype: torch.dtype) -> None:
    """Write the layout that runs are loaded from: diffusers' own."""
    spec, model, kind = prepared.spec, prepared.model, prepared.spec.export.kind
    if kind == "full":
        model.export(folder, spec.samples.set.sampling.build(model.process), dtype)
        return
    if kind == "lora":
        sort_header(save_lora(model, folder, dtype), metadata_of(prepared, kind))
    elif kind == "adapter":
        save_peft(model, folder, dtype)
    if spec.method.token is not None:
        save_token(model, spec.method.token, folder / TOKEN_FILE, dtype)
        sort_header(folder / TOKEN_FILE, metadata_of(prepared, "token"))


def _write_layout(prepared: Prepared, layout: str, folder: Path, dtype: torch.dtype) -> None:
    """Write what other programs read; a token has a file of its own beside it."""
    spec, model, kind = prepared.spec, prepared.model, prepared.spec.export.kind
    file, metadata = folder / _file_name(prepared), metadata_of(prepared, kind)
    if layout == "single_file":
        save_single_file(model, file, dtype, metadata)
    elif layout == "kohya":
        save_kohya(model, file, dtype, metadata)
    else:
        save_peft(model, folder, dtype)
    if spec.method.token is not None:
        save_token(model, spec.method.token, folder / TOKEN_FILE, dtype)
        sort_header(folder / TOKEN_FILE, metadata_of(prepared, "token"))


def _file_name(prepared: Prepared) -> str:
    """Name a file as user interfaces show it: by the subject."""
    return f"{prepared.spec.subject.name}.safetensors"


def _place(prepared: Prepared, layout: str) -> Path:
    """Return the file or folder of a layout that a loader is given."""
    run, kind = prepared.spec.folder, prepared.spec.export.kind
    if layout == "diffusers":
        return run / "model" / TOKEN_FILE if kind == "token" else run / "model"
    folder = run / "exports" / layout
    return folder if layout == "peft" else folder / _file_name(prepared)


def _loaded_as(kind: str, layout: str) -> str:
    """Return what `snippet` calls the files of a layout."""
    return {"diffusers": kind, "peft": "adapter"}.get(layout, layout)


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.safetensors"))


def picture_of(prepared: Prepared) -> Picture:
    """Describe the first of the run's samples, for other programs to draw."""
    samples, hardware = prepared.spec.samples.set, prepared.spec.hardware
    return Picture(
        samples.prompts[0],
        samples.seeds[0],
        samples.sampling.num_inference_steps,
        samples.sampling.guidance_scale,
        samples.sampling.resolution,
        samples.sampling.negative_prompt,
        hardware.device,
        samples.sampling.dtype,
        hardware.offload,
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
    if asked == "float32":
        return torch.float32
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
        remove_leftovers(store)
        if kept.is_file() and kept.stem == file_hash(kept):
            _replace_by_link(kept, file)
        else:
            _replace_by_link(file, kept)
        kept.chmod(0o444)
    except (OSError, UserError) as error:  # another file system, one without links or room
        log.debug("%s is a copy of its own (%s).", file, error)
        return False
    return True


def _replace_by_link(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        os.link(source, temporary)
