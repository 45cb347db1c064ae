"""Read published adapters, in diffusers', kohya's or PEFT's layout, and check that they fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from dreambooth.errors import UserError, reason
from dreambooth.model.adapters.lycoris_files import is_lycoris, read_lycoris
from dreambooth.model.adapters.peft_kinds import (
    PEFT_CONFIG,
    PEFT_FILE,
    PEFT_PREFIX,
    Adapter,
    is_plain_lora,
    network_folders,
    read_config,
    read_other_kind,
)

LORA_FILE = "pytorch_lora_weights.safetensors"
# what the last part of the names of LyCORIS' other tensors begins with
OTHER_KINDS = ("oft_", "diff")
# of PEFT's config, what says how A and B are applied; other fields differ between its versions
PEFT_FIELDS = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern")
PEFT_FIELDS += ("use_rslora", "use_dora")


def find_adapter(path: str | Path) -> Path:
    """Find the adapter at `path`, a file, a folder or a finished run.

    Returns a safetensors file, or a folder with one in PEFT's layout for each network.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    for file in (path, path / LORA_FILE, path / PEFT_FILE, path / "model" / LORA_FILE):
        if file.is_file():
            return file
    for folder in (path, path / "model"):
        if network_folders(folder):
            return folder
    raise UserError(
        f"there is no adapter at {path}: give a .safetensors file, the folder of a run that "
        f"trained one, or a folder with {LORA_FILE}, with {PEFT_FILE} and {PEFT_CONFIG}, or with "
        "such a folder for each network (unet/, text_encoder/)."
    )


def read_adapters(
    place: Path, networks: Mapping[str, torch.nn.Module], pipeline: Any
) -> dict[str, Adapter]:
    """Read the adapters of each network that there are some for.

    Args:
        place: what `find_adapter` finds.
        networks: the model's networks that can have adapters, by name.
        pipeline: the diffusers class of the model's pipelines, which knows the layouts.

    Raises:
        UserError: a file is damaged, or a tensor fits no layer. diffusers itself only warns when
            no tensor fits, and leaves the model as it was.
    """
    if not place.is_dir():
        return _read_file(place, networks, pipeline)
    folders, adapters = network_folders(place), {}
    if others := sorted(folders.keys() - networks.keys()):
        raise UserError(
            f"{place} has an adapter in {others[0]}/, and the model has no network of this name, "
            f"but {', '.join(networks)}: give the folder of one adapter."
        )
    for name in [name for name in networks if name in folders]:
        adapters |= _read_file(folders[name] / PEFT_FILE, {name: networks[name]}, pipeline)
    return adapters


def _read_file(
    file: Path, networks: Mapping[str, torch.nn.Module], pipeline: Any
) -> dict[str, Adapter]:
    """Read the adapters that one file holds."""
    try:
        state = load_file(file)
    except Exception as error:
        raise UserError(f"{file} is not a safetensors file ({reason(error)}).") from error
    if is_lycoris(state):
        return read_lycoris(file, state, networks)
    _refuse_other_files(file, state)
    if any(key.startswith(PEFT_PREFIX) for key in state):
        config = read_config(file)
        if not is_plain_lora(config):
            return dict([read_other_kind(file, config, state, networks)])
        state, metadata = _of_one_network(config, state, networks)
        alphas = []
    else:
        where = {"weight_name": file.name, "local_files_only": True, "return_lora_metadata": True}
        try:
            # some pipelines know no alphas beside those of the metadata
            state, *alphas, metadata = pipeline.lora_state_dict(str(file.parent), **where)
        except Exception as error:
            raise UserError(f"{file} is not a LoRA that can be read ({reason(error)}).") from error
    _refuse_misfits(file, state, networks)
    adapters, known = {}, (alphas[0] if alphas else None) or {}
    for name, module in networks.items():
        if own := _of_network(state, name):
            fields = _of_network(metadata or {}, name)
            adapters[name] = _adapter(own, module, fields, _of_network(known, name))
    return adapters


def _refuse_other_files(file: Path, state: Mapping[str, Tensor]) -> None:
    """Raise UserError where no tensor's name is one of a LoRA, with what the file seems to be."""
    ends = [key.rpartition(".")[2] for key in state if not key.startswith(PEFT_PREFIX)]
    is_other = any(end.startswith(OTHER_KINDS) for end in ends)
    is_lora = any("lora" in key or key.startswith(PEFT_PREFIX) for key in state)
    if not state or (is_lora and not is_other):
        return
    first = min(state)
    what = "use a LoRA that was trained for this base model"
    if len(state) <= 2 and not is_other:
        what = "a textual inversion belongs into embeddings=[FILE]"
    elif is_other:
        what = "of adapters without PEFT's config, a LoRA, a LoHa and a LoKr can be read"
    elif len(state) > 500:
        what = "whole weights are a base model: give their diffusers folder as model.path"
    raise UserError(f"{file} is no LoRA, for it holds {first}: {what}.")


def _of_network(values: Mapping[str, Any], network: str) -> dict[str, Any]:
    """Pick the entries named `<network>.<rest>`, by the rest."""
    start = f"{network}."
    return {k.removeprefix(start): v for k, v in values.items() if k.startswith(start)}


def _peft_names(state: Mapping[str, Any], module: torch.nn.Module) -> dict[str, Any]:
    """Rename one network's tensors to `<layer>.lora_A.weight`, in their order.

    Raises:
        ValueError: the names follow none of diffusers' layouts.
    """
    if not isinstance(module, PreTrainedModel):
        return convert_unet_state_dict_to_peft(state)
    norms = ".lora_magnitude_vector"
    state = {key.replace(f"{norms}.weight", norms): value for key, value in state.items()}
    named = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
    if hasattr(module, "text_model"):
        return named
    # version 5 of transformers has dropped this prefix, which files keep
    return {name.removeprefix("text_model."): value for name, value in named.items()}


def _adapter(
    state: dict[str, Tensor],
    module: torch.nn.Module,
    fields: Mapping[str, Any],
    alphas: Mapping[str, float],
) -> Adapter:
    """Make one network's adapters from its tensors.

    `fields` are of the config that came with the file. Without one, each layer has the rank of its
    tensors and the alpha that kohya's `alphas` give it, named after its A; else alpha is the rank.
    """
    named = _peft_names(state, module)
    if "lora_alpha" in fields:
        known = {name: fields[name] for name in PEFT_FIELDS if fields.get(name) is not None}
        return Adapter(LoraConfig(**known), named)
    ranks = {_layer(name): x.shape[1] for name, x in named.items() if ".lora_B." in name}
    scales: dict[str, Any] = dict(ranks)
    for before, name in zip(state, named, strict=True):
        alpha = alphas.get(before.split(".lora.")[0] + ".alpha")
        if alpha is not None:
            scales[_layer(name)] = alpha
    rank = Counter(ranks.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern={f"^{layer}": value for layer, value in ranks.items() if value != rank},
        alpha_pattern={f"^{layer}": value for layer, value in scales.items() if value != rank},
        target_modules=sorted(ranks),
        use_dora=any(".lora_magnitude_vector" in name for name in named),
    )
    return Adapter(config, named)


def _layer(name: str) -> str:
    """Return the layer that a tensor of an adapter belongs to."""
    return name.partition(".lora_")[0]


def _refuse_misfits(
    file: Path, state: Mapping[str, Tensor], networks: Mapping[str, torch.nn.Module]
) -> None:
    """Raise UserError unless every tensor fits a layer of one of the networks."""
    misfits = [key for key in sorted(state) if key.split(".", 1)[0] not in networks]
    for name, module in networks.items():
        misfits += _misfits(name, _of_network(state, name), module)
    if misfits or not state:
        count = len(state) - len(misfits)
        raise UserError(
            f"only {count} of the {len(state)} tensors of {file} fit the model, "
            f"{misfits[0] if misfits else 'for it is empty'} does not: use a LoRA that was trained "
            "for this base model."
        )


def _misfits(network: str, state: Mapping[str, Tensor], module: torch.nn.Module) -> list[str]:
    """Name those A `[rank,in]` and B `[out,rank]` that have no layer of their size."""
    if not state:
        return []
    try:
        named = _peft_names(state, module)
    except ValueError:
        return [f"{network}.{key}" for key in sorted(state)]
    layers = dict(module.named_modules())
    misfits = []
    for key, tensor in sorted(named.items()):
        weight = getattr(layers.get(_layer(key)), "weight", None)
        side = 1 if ".lora_A." in key else 0  # A meets the inputs, B makes the outputs
        least = 1 if ".lora_magnitude_vector" in key else 2  # DoRA's norms are of the outputs
        if weight is None or tensor.dim() < least or tensor.shape[side] != weight.shape[side]:
            misfits.append(f"{network}.{key}")
    return misfits


def _of_one_network(
    config: Mapping[str, object],
    state: Mapping[str, Tensor],
    networks: Mapping[str, torch.nn.Module],
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Name a LoRA's tensors and its config, as PEFT writes them, by the network that they fit."""
    state = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items()}
    network = min(networks, key=lambda name: len(_misfits(name, state, networks[name])))
    return (
        {f"{network}.{key}": tensor for key, tensor in state.items()},
        {f"{network}.{name}": value for name, value in config.items()},
    )
