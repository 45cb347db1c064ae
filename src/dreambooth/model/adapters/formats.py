"""Read published LoRA files, in diffusers', kohya's or PEFT's layout, and check that they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors.torch import load_file

from dreambooth.errors import UserError
from dreambooth.model.loading import reason

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
# of PEFT's config, what says how A and B are applied; other fields differ between its versions
PEFT_FIELDS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora")


def find_lora(path: str | Path) -> Path:
    """The safetensors file at `path`, a file or a folder; UserError when there is none."""
    path = Path(path)
    for file in (path, path / LORA_FILE, path / PEFT_FILE):
        if file.is_file():
            return file
    raise UserError(
        f"there is no LoRA at {path}: give a .safetensors file or a folder with {LORA_FILE}, or "
        f"with {PEFT_FILE} and {PEFT_CONFIG}."
    )


def read_lora(
    file: Path, parts: Mapping[str, torch.nn.Module]
) -> tuple[dict[str, torch.Tensor], dict | None, dict | None]:
    """Tensors named `<part>.<module>...`, alphas (kohya) and metadata, as diffusers' loader takes.

    `parts` are the networks by name. Raises UserError unless every tensor fits one of them:
    diffusers only warns when none does, and leaves the model as it was.
    """
    try:
        state = load_file(file)
    except Exception as error:
        raise UserError(f"{file} is not a safetensors file ({reason(error)}).") from error
    if any(key.startswith(PEFT_PREFIX) for key in state):
        state, metadata = _from_peft(file, state, parts)
        alphas = None
    else:
        where = {"weight_name": file.name, "local_files_only": True, "return_lora_metadata": True}
        try:
            loaded = StableDiffusionPipeline.lora_state_dict(str(file.parent), **where)
        except Exception as error:
            raise UserError(f"{file} is not a LoRA that can be read ({reason(error)}).") from error
        state, alphas, metadata = loaded
    misfits = [key for key in sorted(state) if not _known_part(key, parts)]
    for part, module in parts.items():
        misfits += _misfits(part, _of_part(state, part), module)
    if misfits or not state:
        count = len(state) - len(misfits)
        raise UserError(
            f"only {count} of the {len(state)} tensors of {file} fit the model, "
            f"{misfits[0] if misfits else 'for it is empty'} does not: use a LoRA that was trained "
            "for this base model."
        )
    return state, alphas, metadata


def _known_part(key: str, parts: Mapping[str, torch.nn.Module]) -> bool:
    return key.split(".", 1)[0] in parts


def _of_part(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    start = f"{part}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def _misfits(part: str, state: dict[str, torch.Tensor], module: torch.nn.Module) -> list[str]:
    """Names of those A `[rank,in]` and B `[out,rank]` that have no layer of their size."""
    if not state:
        return []
    try:
        if part == "unet":
            named = convert_unet_state_dict_to_peft(state)
        else:
            named = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
    except ValueError:  # names that follow none of diffusers' layouts
        return [f"{part}.{key}" for key in sorted(state)]
    layers = dict(module.named_modules())
    misfits = []
    for key, tensor in sorted(named.items()):
        name, _, kind = key.partition(".lora_")
        layer = layers.get(name, layers.get(name.removeprefix("text_model.")))
        weight = getattr(layer, "weight", None)
        side = 1 if kind.startswith("A.") else 0  # A meets the inputs, B makes the outputs
        if weight is None or tensor.dim() < 2 or tensor.shape[side] != weight.shape[side]:
            misfits.append(f"{part}.{key}")
    return misfits


def _from_peft(
    file: Path, state: dict[str, torch.Tensor], parts: Mapping[str, torch.nn.Module]
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """One network's adapter with its config beside it, as `PeftModel.save_pretrained` writes it."""
    try:
        config = json.loads((file.parent / PEFT_CONFIG).read_text())
        fields = {name: config[name] for name in PEFT_FIELDS if config.get(name) is not None}
        if config["peft_type"] != "LORA" or config.get("use_dora") or "lora_alpha" not in fields:
            raise ValueError("it is not a plain LoRA")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{file} needs the {PEFT_CONFIG} of a plain LoRA beside it ({reason(error)}): copy it "
            "there, for alpha is only in it."
        ) from error
    state = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items()}
    part = min(parts, key=lambda name: len(_misfits(name, state, parts[name])))
    return (
        {f"{part}.{key}": tensor for key, tensor in state.items()},
        {f"{part}.{name}": value for name, value in fields.items()},
    )
