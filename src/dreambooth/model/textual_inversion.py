"""New words with embeddings of their own (textual inversion, Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.errors import UserError
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.settings import require_integer

WRONG_END = 2  # the id of a prompt's end in the configs of published CLIPs, whose end is 49407


@dataclass(frozen=True)
class TokenSettings:
    """The block `method.token`: `num_vectors` embeddings stand for the word `token`.

    All of them start as the embedding of `initializer`, or as the mean of its tokens' embeddings.
    """

    token: str
    initializer: str
    num_vectors: int

    def __post_init__(self) -> None:
        for name in ("token", "initializer"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"method.token.{name}={value} must be a word.")
        if self.token != "".join(self.token.split()):
            raise UserError(
                f"method.token.token={self.token} must be one word without spaces, such as "
                "<my-dog>."
            )
        require_integer("method.token.num_vectors", self.num_vectors, least=1)

    @property
    def words(self) -> list[str]:
        """The words of the token's vectors."""
        return spelled(self.token, self.num_vectors)


def spelled(token: str, num_vectors: int) -> list[str]:
    """Spell out what diffusers calls the vectors of one token.

    >>> spelled("<t>", 3)
    ['<t>', '<t>_1', '<t>_2']
    """
    return [token, *(f"{token}_{i}" for i in range(1, num_vectors))]


def other_name(token: str) -> str:
    """Suggest a word that no model has, in the place of `token`."""
    return f"<{token.strip('<>')}-1>"


def check_token(model: BaseModel, settings: TokenSettings) -> dict[str, list[int]]:
    """Return the initializer's tokens for each text encoder, and change nothing.

    Raises:
        UserError: the model takes no new words, knows one of them, or no word of the initializer.
    """
    if not model.token_encoders:
        raise UserError(
            f"method.token.token={settings.token}: the text encoder of {model.layout.described} "
            "takes no new words: choose another method, such as lora."
        )
    if known := known_word(model, settings.words):
        raise UserError(
            f"method.token.token={settings.token}: the tokenizer knows {known} already, so give "
            f"a word that no model has, such as {other_name(settings.token)}."
        )
    initializer = {}
    for encoder in model.token_encoders:
        tokenizer = model.tokenizer_of(encoder)
        ids = tokenizer.encode(settings.initializer, add_special_tokens=False)
        if not {*ids} - {*tokenizer.all_special_ids}:
            raise UserError(
                f"method.token.initializer={settings.initializer} holds no word of this model: use "
                "one that describes the subject, such as dog or pattern."
            )
        initializer[encoder] = ids
    return initializer


def known_word(model: BaseModel, words: Sequence[str]) -> str | None:
    """Return the first of `words` that a vocabulary of the model has; None if there is none."""
    for encoder in model.token_encoders:
        vocabulary = model.tokenizer_of(encoder).get_vocab()
        for word in words:
            if word in vocabulary or f"{word}</w>" in vocabulary:
                return word
    return None


def add_token(model: BaseModel, settings: TokenSettings) -> None:
    """Give every text encoder that takes new words those of the token, at the initializer.

    Every other row of the embedding matrices is kept bit for bit.

    Raises:
        UserError: as `check_token`.
    """
    rows = {}
    for encoder, ids in check_token(model, settings).items():
        model.restore(encoder)
        weight = model.network(encoder).get_input_embeddings().weight.detach()
        rows[encoder] = weight[ids].mean(0).expand(settings.num_vectors, -1)
    add_words(model, settings.words, rows)


@torch.no_grad()
def add_words(model: BaseModel, words: list[str], rows: Mapping[str, Tensor]) -> None:
    """Add words, none of which the model knows, with embeddings `[num_words,D]` by text encoder."""
    for encoder, values in rows.items():
        model.restore(encoder)
        text, tokenizer = model.network(encoder), model.tokenizer_of(encoder)
        tokenizer.add_tokens(words)
        # some matrices are longer than needed
        length = max(text.get_input_embeddings().num_embeddings, len(tokenizer))
        with keep_random_state():  # the new rows' own initial values are drawn and then overwritten
            embedding = text.resize_token_embeddings(length, mean_resizing=False)
        embedding.weight[tokenizer.convert_tokens_to_ids(words)] = values.to(embedding.weight)
        _pool_at_the_end(text, tokenizer.eos_token_id)


def _pool_at_the_end(text: Any, end: int) -> None:
    """Have a text encoder pool a prompt where it ends, and not at a new word.

    A CLIP whose config gives the end as 2, as those of SDXL and SD3 do, pools at the highest id
    (transformers' modeling_clip.py), which is that of a word that was added.
    """
    for module in text.modules():
        if getattr(module, "eos_token_id", None) == WRONG_END:
            module.eos_token_id = end
            text.config.eos_token_id = end


def has_token(model: BaseModel, settings: TokenSettings) -> bool:
    """Tell whether every word of `settings` has been added to the model."""
    tokenizers = [model.tokenizer_of(encoder) for encoder in model.token_encoders]
    added = [each.get_added_vocab().keys() - {*each.all_special_tokens} for each in tokenizers]
    return bool(added) and all(words.issuperset(settings.words) for words in added)


def token_ids(model: BaseModel, settings: TokenSettings, encoder: str) -> list[int]:
    """List the rows `[num_vectors]` of an embedding matrix that belong to the token's words."""
    return model.tokenizer_of(encoder).convert_tokens_to_ids(settings.words)


def token_keys(model: BaseModel, token: str) -> dict[str, str]:
    """Name the embeddings of each text encoder as files do: by the token if there is one encoder.

    With several it is `clip_l` and `clip_g`, as in every program that reads those of SDXL.
    """
    encoders = model.token_encoders
    return dict(encoders) if len(encoders) > 1 else dict.fromkeys(encoders, token)


def token_rows(model: BaseModel, settings: TokenSettings) -> dict[str, Tensor]:
    """Copy the token's embeddings, detached float32 `[num_vectors,D]`, by their name in files."""
    return {
        key: _matrices(model, encoder)[-1].detach()[token_ids(model, settings, encoder)].float()
        for encoder, key in token_keys(model, settings.token).items()
    }


@torch.no_grad()
def set_token_rows(model: BaseModel, settings: TokenSettings, rows: Mapping[str, Tensor]) -> None:
    """Overwrite the token's embeddings with `rows [num_vectors,D]`, by their name in files."""
    for encoder, key in token_keys(model, settings.token).items():
        for matrix in _matrices(model, encoder):
            matrix[token_ids(model, settings, encoder)] = rows[key].to(matrix)


def _matrices(model: BaseModel, encoder: str) -> list[Tensor]:
    """List the embedding matrix `[V,D]` and its float32 master, where the encoder was cast."""
    network = model.network(encoder)
    weight = network.get_input_embeddings().weight
    name = next(name for name, p in network.named_parameters() if p is weight)
    master = model.masters.get(encoder)
    return [weight] if master is None else [weight, master[name]]


class RowMask:
    """Let training change only rows `ids` of the embedding matrix `weight [V,D]`.

    The other rows get a gradient of zero, so that neither clipping nor Adam's moments see any word
    but the new ones, and are copied back after a step.
    """

    def __init__(self, weight: nn.Parameter, ids: list[int]) -> None:
        self.weight = weight
        self._original = weight.detach().clone()
        self._is_new = torch.zeros(weight.shape[0], 1, dtype=torch.bool, device=weight.device)
        self._is_new[ids] = True
        self.hook = weight.register_hook(self._mask)

    def _mask(self, gradient: Tensor) -> Tensor:
        self._follow(gradient.device)
        return gradient.masked_fill(~self._is_new, 0)

    @torch.no_grad()
    def restore_other_rows(self) -> None:
        """Copy every row but those of `ids` back, bit for bit."""
        self._follow(self.weight.device)
        self.weight.copy_(torch.where(self._is_new, self.weight, self._original))

    def _follow(self, device: torch.device) -> None:
        if self._original.device != device:
            self._original, self._is_new = self._original.to(device), self._is_new.to(device)
