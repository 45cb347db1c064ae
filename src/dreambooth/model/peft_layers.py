"""Adapters in a network, as layers of PEFT: fresh, checked, merged, scaled.

An adapter is any configuration class of PEFT whose layers take the place of a network's own: LoRA
(Hu et al. 2021, arXiv:2106.09685) computes `W x + (alpha / rank) B A x`, others another update of
W. W is frozen. PEFT's own functions put the layers in, for transformers and diffusers integrate
only certain versions of PEFT.
"""

from __future__ import annotations

import torch
from peft import inject_adapter_in_model

from dreambooth.errors import UserError, reason
from dreambooth.model.adapter_settings import KEY, AdapterSettings, is_scalable
from dreambooth.model.adapter_weights import adapter_layers, adapter_parameters
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.random import keyed_generator

ADAPTER = "default"  # PEFT's name of the one adapter that a network has


def add_adapter(model: BaseModel, network: str, settings: AdapterSettings, seed: int) -> None:
    """Put a fresh adapter into a network, its weights in float32.

    Random initial values depend on `seed` and the network alone; the global random state is left
    as it was.

    Raises:
        UserError: the network has an adapter, a target names no layer of the model, or PEFT cannot
            adapt a layer as the settings ask; the network is left without adapters.
    """
    module = model.network(network)
    if has_adapter(module):
        raise UserError(f"the {network} has an adapter already: train from a model without one.")
    targets = settings.options.get("target_modules")
    chosen = {}
    if isinstance(targets, list | tuple):
        chosen = {"target_modules": targets_in(model, network, targets)}
    model.restore(network)  # some adapters begin at a function of the layer's weights
    with keep_random_state():
        torch.manual_seed(keyed_generator(seed, "adapter", network).initial_seed())
        try:
            inject_adapter_in_model(settings.config(**chosen), module, ADAPTER)
        except Exception as error:  # each kind has checks of its own
            remove_adapter(module)
            raise UserError(
                f"{KEY} ({settings.target}) does not fit the {network}: {reason(error)}."
            ) from error
    for parameter in adapter_parameters(module).values():
        parameter.data = parameter.data.float()


def check_adapter(model: BaseModel, network: str, settings: AdapterSettings) -> None:
    """Refuse an adapter that `add_adapter` would; the network is left as it was."""
    add_adapter(model, network, settings, seed=0)
    remove_adapter(model.network(network))


def has_adapter(module: torch.nn.Module) -> bool:
    """Tell whether any layer of `module` has an adapter."""
    return bool(adapter_layers(module))


def remove_adapter(module: torch.nn.Module) -> None:
    """Give every adapted layer of a network its own place back; what is merged stays in it."""
    for name, layer in adapter_layers(module).items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config


def merge_adapters(model: BaseModel) -> None:
    """Put every adapter into its layer's own weights and take it off; a second call does nothing.

    A LoRA's layer becomes `W + (alpha / rank) B A`.
    """
    for name in model.trainable_networks:
        module = model.network(name)
        if not has_adapter(module):
            continue
        model.restore(name)  # a sum rounded to bf16 would lose most of a small adapter
        for layer in adapter_layers(module).values():
            layer.merge()
        remove_adapter(module)


def scale_adapters(model: BaseModel, weight: float) -> None:
    """Multiply the update of every adapter by `weight`: `W x + weight (alpha / rank) B A x`.

    0 is the base model and 1 the adapter as it was trained.

    Raises:
        UserError: a `weight` other than 1 for a kind of adapter whose update is not a sum.
    """
    for name in model.trainable_networks:
        module = model.network(name)
        if not has_adapter(module):
            continue
        if is_scalable(module.peft_config[ADAPTER]):
            for layer in adapter_layers(module).values():
                layer.set_scale(ADAPTER, weight)
        elif weight != 1:
            raise UserError(
                f"adapter_weight={weight} cannot be used: the update of this kind of adapter is no "
                "sum. Use adapter_weight=1."
            )


def targets_in(model: BaseModel, network: str, targets: list[str] | tuple[str, ...]) -> list[str]:
    """Pick the targets that name layers of `network`.

    Raises:
        UserError: one names no layer of any network, or none names a layer of this one.
    """
    modules = {n: dict(model.network(n).named_modules()) for n in model.trainable_networks}

    def found(target: str, where: str) -> list[str]:
        return [n for n in modules[where] if n == target or n.endswith(f".{target}")]

    lost = [t for t in targets if not any(found(t, where) for where in modules)]
    here: list[str] = []
    for target in targets:
        names = found(target, network)
        layers = [n for n in names if not isinstance(modules[network][n], torch.nn.ModuleList)]
        # of some networks one layer is called as a list of layers elsewhere, which PEFT refuses
        here += [target] * bool(names) if layers == names else layers
    if lost or not here:
        fault = f"{lost[0]} names no layer of the model" if lost else f"none is in the {network}"
        raise UserError(
            f"of {KEY}.target_modules=[{', '.join(targets)}], {fault}: use ends of module names, "
            "such as to_q, to_k, to_v, to_out.0 in the unet and q_proj, k_proj, v_proj, out_proj "
            "in the text_encoder."
        )
    return here
