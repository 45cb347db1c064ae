"""Which weights a phase of training changes: make it so, list them, save and load them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import nn

from dreambooth.errors import UserError
from dreambooth.model.lora import LoRASettings, add_lora, has_lora, lora_parameters
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.textual_inversion import (
    TokenSettings,
    add_token,
    has_token,
    set_token_rows,
    token_ids,
    token_rows,
)

PARTS = ("unet", "text_encoder")


@dataclass(frozen=True)
class Phase:
    """What trains: `frozen`, `full` or `lora`; for the text encoder also `token`, its new rows."""

    unet: str
    text_encoder: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            allowed = ["frozen", "full", "lora"] + ["token"] * (field.name == "text_encoder")
            if value not in allowed:
                raise UserError(
                    f"a phase cannot train {field.name}={value}: use one of {', '.join(allowed)}."
                )
        if self.unet == self.text_encoder == "frozen":
            raise UserError(
                "a phase trains nothing: set unet or text_encoder to something other than frozen."
            )


def prepare(
    model: LatentDiffusion,
    phase: Phase,
    lora: LoRASettings | None,
    token: TokenSettings | None,
    seed: int,
    frozen_dtype: torch.dtype = torch.float32,
) -> None:
    """Make `model` train exactly what `phase` names, in float32, and nothing else.

    Adapters and new words are added where they are not there yet; the VAE is always frozen. Parts
    of which no own weight trains (frozen, or the base of a LoRA) are cast to `frozen_dtype`; their
    exact float32 weights come back when a later phase, an export or a merge needs them. Raises
    UserError when the phase needs settings that were not given.
    """
    if token is not None and not has_token(model, token):
        add_token(model, token)
    _close_phase(model)
    model.zero_grad()  # an earlier phase's gradients would hold memory to the end
    model.requires_grad_(False).eval()
    _cast(model, "vae", frozen_dtype)
    for part in PARTS:
        kind, module = getattr(phase, part), getattr(model, part)
        if kind == "lora" and not has_lora(module):
            if lora is None:
                raise UserError(f"{part}=lora needs the settings rank, alpha, dropout and targets.")
            add_lora(model, part, lora, seed)
        _cast(model, part, frozen_dtype if kind in ("frozen", "lora") else torch.float32)
        if kind == "full":
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(".lora_" not in name)
        elif kind == "lora":
            for _, parameter in lora_parameters(module):
                parameter.requires_grad_(True)
        elif kind == "token":
            if token is None:
                raise UserError(
                    "text_encoder=token needs the settings token, initializer and num_vectors."
                )
            _mask_token(model, token)
        module.train(kind != "frozen")


def trainable_parameters(model: LatentDiffusion) -> dict[str, nn.Parameter]:
    """What the optimizer is given, by name, sorted.

    In a token phase this is the whole embedding matrix `[V,D]`, of which only the new rows get a
    gradient; call `restrict_token_update` after each optimizer step.
    """
    parameters = ((_own_name(name), p) for name, p in model.named_parameters())
    return dict(sorted((name, p) for name, p in parameters if p.requires_grad))


def trained_state(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    """What this phase and those before it train, and no more: of a token its rows `[n,D]`.

    Detached; all but the rows share memory with the model.
    """
    names = _trained_names(model)
    state = {_own_name(name): p.detach() for name, p in model.named_parameters()}
    for part, master in model.masters.items():
        state |= {f"{part}.{name}": tensor for name, tensor in master.items()}
    tokens = {f"token.{t.token}": token_rows(model, t) for t in _tokens(model)}
    return {name: tokens[name] if name in tokens else state[name] for name in sorted(names)}


def load_trained_state(model: LatentDiffusion, state: dict[str, torch.Tensor]) -> None:
    """Put a `trained_state` of the same phases back, in place.

    Raises UserError, changing nothing, when names or shapes differ from what was prepared.
    """
    own = trained_state(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        kind, names = ("lacks", missing) if missing else ("also holds", unexpected)
        raise UserError(
            f"the checkpoint {kind} {len(names)} tensors, {names[0]} first, so it is of another "
            "method: resume with the method it was trained with."
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"the checkpoint's {name} is {list(state[name].shape)} and the model's "
                f"{list(tensor.shape)}: resume with the model and settings it was trained with."
            )
    parameters = {_own_name(name): p for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
            if name in parameters:  # what is shared with `own`, unless that was a float32 master
                parameters[name].copy_(state[name])
    for settings in _tokens(model):
        if f"token.{settings.token}" in own:
            set_token_rows(model, settings, state[f"token.{settings.token}"])


def restrict_token_update(model: LatentDiffusion) -> None:
    """Undo, bit for bit, what weight decay did to the other rows; nothing outside a token phase."""
    mask = getattr(model, "_token_mask", None)
    if mask is not None:
        mask.restore_other_rows()


class _TokenMask:
    """Lets training change only rows `ids` of the embedding matrix `weight [V,D]`.

    The other rows get a gradient of zero, so that neither clipping nor Adam's moments see any word
    but the new ones, and are copied back after a step.
    """

    def __init__(self, weight: nn.Parameter, settings: TokenSettings, ids: list[int]):
        self.weight, self.settings = weight, settings
        self._original = weight.detach().clone()
        self._is_new = torch.zeros(weight.shape[0], 1, dtype=torch.bool, device=weight.device)
        self._is_new[ids] = True
        self.hook = weight.register_hook(self._mask)

    def _mask(self, gradient: torch.Tensor) -> torch.Tensor:
        self._follow(gradient.device)
        return gradient.masked_fill(~self._is_new, 0)

    @torch.no_grad()
    def restore_other_rows(self) -> None:
        self._follow(self.weight.device)
        self.weight.copy_(torch.where(self._is_new, self.weight, self._original))

    def _follow(self, device: torch.device) -> None:
        if self._original.device != device:
            self._original, self._is_new = self._original.to(device), self._is_new.to(device)


def _mask_token(model: LatentDiffusion, settings: TokenSettings) -> None:
    weight = model.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    model._token_mask = _TokenMask(weight, settings, token_ids(model, settings))


def _close_phase(model: LatentDiffusion) -> None:
    """Remember what the phase before trained, and lift its mask."""
    model._trained_before = _trained_names(model)
    model._tokens_before = _tokens(model)
    mask = getattr(model, "_token_mask", None)
    if mask is not None:
        mask.hook.remove()
        model._token_mask = None


def _tokens(model: LatentDiffusion) -> list[TokenSettings]:
    tokens = getattr(model, "_tokens_before", [])
    mask = getattr(model, "_token_mask", None)
    return tokens if mask is None or mask.settings in tokens else [*tokens, mask.settings]


def _trained_names(model: LatentDiffusion) -> set[str]:
    names = set(trainable_parameters(model))
    mask = getattr(model, "_token_mask", None)
    if mask is not None:
        matrix = next(name for name, p in model.named_parameters() if p is mask.weight)
        names = names - {matrix} | {f"token.{mask.settings.token}"}
    return names | getattr(model, "_trained_before", set())


def _own_name(name: str) -> str:
    """The name a parameter has without an adapter around its layer."""
    return name.replace(".base_layer.", ".")


def _cast(model: LatentDiffusion, part: str, dtype: torch.dtype) -> None:
    """Cast a part's own weights, keeping their float32 masters; adapters stay float32."""
    module = getattr(model, part)
    if module.dtype == dtype:
        return
    model.restore(part)
    if dtype != torch.float32:
        state = model.base_state(part).items()
        model.masters[part] = {name: tensor.to("cpu", copy=True) for name, tensor in state}
        nn.Module.to(module, dtype)  # diffusers' own `to` warns of nothing
        for _, parameter in lora_parameters(module):
            parameter.data = parameter.data.float()
