"""The weights that a run trains: prepare them for each phase, list, save and load them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapter_weights import own_name
from dreambooth.model.adapters.continuation import InitialAdapter
from dreambooth.model.casting import cast_network, quantize_network
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import add_adapter, has_adapter
from dreambooth.model.phases import Phase, chosen
from dreambooth.model.textual_inversion import (
    RowMask,
    TokenSettings,
    add_token,
    check_token,
    has_token,
    set_token_rows,
    token_ids,
    token_keys,
    token_rows,
)


class TrainableWeights:
    """What a run trains of its model: the weights of the present phase and of those before it.

    Made once for a run and prepared for each phase. Names are `<network>.<parameter>`, as without
    an adapter around the layer, and `token.<name in files>` for the rows of a new token. While
    phases train, the denoiser has frozen linear layers in `quantize` bits (`8bit`, `4bit`).

    Raises:
        UserError: the model cannot take the token; adapters are checked when they are added.
    """

    def __init__(
        self,
        model: BaseModel,
        seed: int,
        adapter: AdapterSettings | None = None,
        token: TokenSettings | None = None,
        frozen_dtype: torch.dtype = torch.float32,
        initial: InitialAdapter | None = None,
        quantize: str | None = None,
    ) -> None:
        self.model = model
        self._seed, self._adapter, self._token, self._initial = seed, adapter, token, initial
        self._frozen_dtype, self._quantize = frozen_dtype, quantize
        self._trained_before: set[str] = set()
        self._masks: dict[str, RowMask] = {}  # by the name of the matrix
        if token is not None and not has_token(model, token):
            check_token(model, token)

    def prepare(self, phase: Phase) -> None:
        """Make the model train exactly what `phase` names, in float32, and nothing else.

        Adapters and new words are added where they are not there yet; the autoencoder is always
        frozen. Networks of which no own weight trains (frozen, or the base of an adapter) are cast
        to `frozen_dtype`, but for an autoencoder that overflows in it; their exact float32 weights
        come back when a later phase, an export or a merge needs them.

        Raises:
            UserError: the phase needs settings that were not given.
        """
        model = self.model
        if self._token is not None and not has_token(model, self._token):
            add_token(model, self._token)
        self._close_phase()
        model.zero_grad()  # an earlier phase's gradients would hold memory to the end
        model.requires_grad_(False).eval()
        overflows = self._frozen_dtype == torch.float16 and model.overflows_in_float16
        for name in (model.autoencoder, *model.frozen_encoders):
            is_kept = overflows and name == model.autoencoder
            cast_network(model, name, torch.float32 if is_kept else self._frozen_dtype)
        for name, kind in phase.kinds(model).items():
            module = model.network(name)
            if kind == "adapter" and not has_adapter(module):
                if self._adapter is None:
                    raise UserError(f"{name}=adapter needs method.adapter: its class and options.")
                add_adapter(model, name, self._adapter, self._seed)
                if self._initial is not None:
                    self._initial.put_into(model, name)
            is_base = kind in ("frozen", "adapter")
            cast_network(model, name, self._frozen_dtype if is_base else torch.float32)
            if self._quantize is not None and name == model.denoiser:
                quantize_network(model, name, self._quantize)
            if kind == "token":
                self._mask_other_rows(name)
            else:
                for parameter in chosen(model, name, kind):
                    parameter.requires_grad_(True)
            module.train(kind != "frozen")

    def unquantize(self) -> None:
        """Bring back the weights that were quantised while phases trained, in `frozen_dtype`."""
        if self._quantize is not None:
            self.model.restore(self.model.denoiser)
            cast_network(self.model, self.model.denoiser, self._frozen_dtype)

    def parameters(self) -> dict[str, nn.Parameter]:
        """List what the optimizer is given, by name, sorted.

        In a token phase this is the whole embedding matrix `[V,D]`, of which only the new rows get
        a gradient; call `after_step` after each optimizer step.
        """
        parameters = ((own_name(name), p) for name, p in self.model.named_parameters())
        return dict(sorted((name, p) for name, p in parameters if p.requires_grad))

    def state(self) -> dict[str, Tensor]:
        """List what this phase and those before it train, and no more: of a token its rows `[n,D]`.

        Detached; all but the rows share memory with the model.
        """
        state = {own_name(name): p.detach() for name, p in self.model.named_parameters()}
        for network, master in self.model.masters.items():
            state |= {f"{network}.{name}": tensor for name, tensor in master.items()}
        if self._token is not None and has_token(self.model, self._token):
            rows = token_rows(self.model, self._token).items()
            state |= {f"token.{name}": each for name, each in rows}
        return {name: state[name] for name in sorted(self._names())}

    def load(self, state: dict[str, Tensor]) -> None:
        """Put a `state` of the same phases back, in place.

        Raises:
            UserError: names or shapes differ from what was prepared; nothing is changed.
        """
        own = self.state()
        _refuse_other_state(own, state)
        parameters = {own_name(name): p for name, p in self.model.named_parameters()}
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
                if name in parameters:  # shared with `own`, unless that is a float32 master
                    parameters[name].copy_(state[name])
        rows = {n.removeprefix("token."): x for n, x in state.items() if n.startswith("token.")}
        if rows and self._token is not None:
            set_token_rows(self.model, self._token, rows)

    def after_step(self) -> None:
        """Undo, bit for bit, what weight decay did to the other rows in a token phase."""
        for mask in self._masks.values():
            mask.restore_other_rows()

    def _names(self) -> set[str]:
        names = set(self.parameters())
        if self._masks:
            names = names - self._masks.keys() | self._token_names()
        return names | self._trained_before

    def _token_names(self) -> set[str]:
        assert self._token is not None
        return {f"token.{key}" for key in token_keys(self.model, self._token.token).values()}

    def _mask_other_rows(self, encoder: str) -> None:
        if self._token is None:
            raise UserError(
                "text_encoder=token needs method.token: its token, initializer and num_vectors."
            )
        network = self.model.network(encoder)
        weight = network.get_input_embeddings().weight.requires_grad_(True)
        matrix = next(name for name, p in network.named_parameters() if p is weight)
        ids = token_ids(self.model, self._token, encoder)
        self._masks[f"{encoder}.{matrix}"] = RowMask(weight, ids)

    def _close_phase(self) -> None:
        """Remember what the phase before trained, and lift its masks."""
        self._trained_before = self._names()
        for mask in self._masks.values():
            mask.hook.remove()
        self._masks = {}


def _refuse_other_state(own: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Raise UserError where the names or shapes of a `state` to load are not those of `own`."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        kind, names = ("lacks", missing) if missing else ("also holds", unexpected)
        raise UserError(
            f"the checkpoint {kind} {len(names)} tensors, {names[0]} first, so it comes from "
            "another method: resume with the method it was trained with."
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"the checkpoint's {name} is {list(state[name].shape)} and the model's "
                f"{list(tensor.shape)}: resume with the model and settings it was trained with."
            )
