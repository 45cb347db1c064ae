"""Read LyCORIS' LoHa and LoKr in kohya's names (Yeh et al. 2023, arXiv:2309.14859)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoHaConfig, LoKrConfig
from peft.tuners.lokr.layer import factorization
from torch import Tensor, nn

from dreambooth.errors import UserError
from dreambooth.model.adapters.peft_kinds import Adapter

# kohya's names of the networks; a text encoder that is the only one is `lora_te`
PREFIXES = {
    "unet": ("lora_unet",),
    "text_encoder": ("lora_te", "lora_te1"),
    "text_encoder_2": ("lora_te2",),
}
KINDS = ("hada_", "lokr_")

Layers = dict[str, dict[str, Tensor]]  # the tensors of each layer, by their names in it


def is_lycoris(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a file holds tensors of a LoHa or a LoKr."""
    return any(key.partition(".")[2].startswith(KINDS) for key in state)


def read_lycoris(
    file: Path, state: Mapping[str, Tensor], networks: Mapping[str, nn.Module]
) -> dict[str, Adapter]:
    """Read the adapters of each network that a file holds some for.

    Raises:
        UserError: a tensor that fits no layer, or is of another kind or factorisation.
    """
    places, layers = _places(networks), defaultdict(lambda: defaultdict(dict))
    for key, tensor in sorted(state.items()):
        place, _, name = key.partition(".")
        if place not in places:
            raise UserError(
                f"{key} of {file} fits no layer of the model: use an adapter that was trained for "
                "this base model, with diffusers' names of its layers."
            )
        network, layer = places[place]
        layers[network][layer][name] = tensor
    kinds = {name[:5] for key in state for name in [key.partition(".")[2]] if name != "alpha"}
    if len(kinds) > 1 or not kinds <= {*KINDS}:
        raise UserError(
            f"{file} holds {', '.join(sorted(kinds))} beside each other: of LyCORIS' files those "
            "with a LoHa or a LoKr alone are read."
        )
    make = _loha if kinds == {"hada_"} else _lokr
    return {name: make(file, layers[name], networks[name]) for name in networks if name in layers}


def _places(networks: Mapping[str, nn.Module]) -> dict[str, tuple[str, str]]:
    """Map kohya's name of each layer to its network and its name there."""
    places = {}
    for network, module in networks.items():
        for layer, inner in module.named_modules():
            if getattr(inner, "weight", None) is None:
                continue
            names = [layer.replace(".", "_")]
            if network != "unet":  # version 5 of transformers has dropped this part
                names.append(f"text_model_{names[0].removeprefix('text_model_')}")
            for prefix in PREFIXES.get(network, ()):
                places |= {f"{prefix}_{name}": (network, layer) for name in names}
    return places


def _loha(file: Path, layers: Layers, module: nn.Module) -> Adapter:
    ranks = {layer: _size(file, layer, own, "hada_w1_b") for layer, own in layers.items()}
    alphas = {layer: _alpha(own, ranks[layer]) for layer, own in layers.items()}
    is_tucker = any("hada_t1" in own for own in layers.values())
    config = LoHaConfig(use_effective_conv2d=is_tucker, **_settings(ranks, alphas))
    return Adapter(config, _state(layers))


def _lokr(file: Path, layers: Layers, module: nn.Module) -> Adapter:
    ranks, alphas = {}, {}
    for layer, own in layers.items():
        parts = [own[name] for name in ("lokr_w2_b", "lokr_w1_b") if name in own]
        if parts:
            ranks[layer] = len(parts[0])
            alphas[layer] = _alpha(own, ranks[layer])
        else:  # two whole factors: no scale, and a rank from which PEFT makes no smaller ones
            ranks[layer] = alphas[layer] = max(max(own[n].shape) for n in own if n != "alpha")
    config = LoKrConfig(
        decompose_both=any("lokr_w1_a" in own for own in layers.values()),
        decompose_factor=_factor(file, layers, module),
        use_effective_conv2d=any("lokr_t2" in own for own in layers.values()),
        **_settings(ranks, alphas),
    )
    return Adapter(config, _state(layers))


def _factor(file: Path, layers: Layers, module: nn.Module) -> int:
    """Find the factor by which both sides of every layer were divided."""
    sides = []
    for layer, own in layers.items():
        rows = _size(file, layer, own, "lokr_w1", "lokr_w1_a")
        base: Any = module.get_submodule(layer)
        whole = own.get("lokr_w1", own.get("lokr_w1_b"))
        out_side, in_side = base.weight.shape[:2]
        sides += [(out_side, rows), (in_side, 0 if whole is None else whole.shape[1])]
    for factor in (-1, *sorted({small for _, small in sides if small}, reverse=True)):
        if all(factorization(side, factor)[0] == small for side, small in sides):
            return factor
    raise UserError(
        f"{file} divides its layers by factors of their own, or is for another base model: of "
        "LoKr's files those with one factor are read."
    )


def _settings(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Make the fields of PEFT's configuration that say each layer's rank and alpha."""
    (rank, _), *_ = Counter(ranks.values()).most_common(1)
    (alpha, _), *_ = Counter(alphas.values()).most_common(1)
    return {
        "r": rank,
        "alpha": alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": {f"^{n}": value for n, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{n}": value for n, value in alphas.items() if value != alpha},
    }


def _size(file: Path, layer: str, own: Mapping[str, Tensor], *names: str) -> int:
    """Return the first side of the first tensor that a layer has of `names`."""
    for name in names:
        if name in own:
            return len(own[name])
    raise UserError(f"{file} has no {names[0]} for {layer}: it is damaged, or of another kind.")


def _alpha(own: Mapping[str, Tensor], rank: int) -> float:
    return own["alpha"].item() if "alpha" in own else rank


def _state(layers: Layers) -> dict[str, Tensor]:
    """Name tensors as PEFT does; alpha is in the configuration."""
    return {
        f"{layer}.{name}": tensor
        for layer, own in layers.items()
        for name, tensor in own.items()
        if name != "alpha"
    }
