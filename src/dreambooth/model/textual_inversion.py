"""New words with embeddings of their own (textual inversion, Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.files import atomic
from dreambooth.model.loading import keep_random_state, reason
from dreambooth.model.stable_diffusion import LatentDiffusion

TOKEN_FILE = "learned_embeds.safetensors"


@dataclass(frozen=True)
class TokenSettings:
    """`num_vectors` embeddings stand for `token`, all starting as that of `initializer`."""

    token: str
    initializer: str
    num_vectors: int

    def __post_init__(self) -> None:
        if not self.token or self.token != "".join(self.token.split()) or self.num_vectors < 1:
            raise UserError(
                f"token '{self.token}' of {self.num_vectors} vectors: a token is one word "
                "without spaces, such as <my-dog>, and has one vector or more."
            )

    @property
    def words(self) -> list[str]:
        """`<t>, <t>_1, ... <t>_{n-1}`: what diffusers calls the vectors of one token."""
        return [self.token] + [f"{self.token}_{i}" for i in range(1, self.num_vectors)]


def add_token(model: LatentDiffusion, settings: TokenSettings) -> None:
    """Give the tokenizer and the text encoder the new words, starting at the initializer's row.

    Every other row of the embedding matrix is kept bit for bit. Raises UserError when a word is
    known already or the initializer is not one known token.
    """
    tokenizer = model.tokenizer
    vocabulary = tokenizer.get_vocab()
    for word in settings.words:
        if word in vocabulary or f"{word}</w>" in vocabulary:
            raise UserError(
                f"the tokenizer knows {word} already: give token a word that no model has, such as "
                f"<{settings.token.strip('<>')}-1>."
            )
    initializer = tokenizer.encode(settings.initializer, add_special_tokens=False)
    if len(initializer) != 1:
        raise UserError(
            f"the initializer '{settings.initializer}' is {len(initializer)} tokens: give "
            "initializer a word that is one, such as dog or pattern."
        )
    model.restore("text_encoder")
    tokenizer.add_tokens(settings.words)
    embedding = model.text_encoder.get_input_embeddings()
    rows = max(embedding.num_embeddings, len(tokenizer))  # some matrices are longer than needed
    with keep_random_state():  # the new rows' own initial values are drawn and then overwritten
        embedding = model.text_encoder.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        embedding.weight[token_ids(model, settings)] = embedding.weight[initializer[0]].clone()


def has_token(model: LatentDiffusion, settings: TokenSettings) -> bool:
    """Whether every word of `settings` has been added to the model."""
    added = model.tokenizer.get_added_vocab()
    return all(word in added for word in settings.words)


def token_ids(model: LatentDiffusion, settings: TokenSettings) -> list[int]:
    """Rows `[num_vectors]` of the embedding matrix that the token's words have."""
    return model.tokenizer.convert_tokens_to_ids(settings.words)


def token_rows(model: LatentDiffusion, settings: TokenSettings) -> torch.Tensor:
    """A detached float32 copy of the token's embeddings, `[num_vectors,D]`."""
    return _matrices(model)[-1].detach()[token_ids(model, settings)].float()


@torch.no_grad()
def set_token_rows(model: LatentDiffusion, settings: TokenSettings, rows: torch.Tensor) -> None:
    """Overwrite the token's embeddings with `rows [num_vectors,D]`."""
    for matrix in _matrices(model):
        matrix[token_ids(model, settings)] = rows.to(matrix)


def _matrices(model: LatentDiffusion) -> list[torch.Tensor]:
    """The embedding matrix `[V,D]`, then its float32 master where the text encoder was cast."""
    weight = model.text_encoder.get_input_embeddings().weight
    name = next(name for name, p in model.text_encoder.named_parameters() if p is weight)
    master = model.masters.get("text_encoder")
    return [weight] if master is None else [weight, master[name]]


def save_token(model: LatentDiffusion, settings: TokenSettings, path: str | Path) -> None:
    """Write `{token: [num_vectors,D]}` as safetensors, atomically.

    `StableDiffusionPipeline.load_textual_inversion(path)` loads it.
    """
    with atomic(path) as file:
        save_file({settings.token: token_rows(model, settings).cpu().contiguous()}, file)


def load_token(target: LatentDiffusion | StableDiffusionPipeline, path: str | Path) -> str:
    """Add the token of a file (or of `learned_embeds.safetensors` in a folder); returns its name.

    The file holds one tensor, `{token: [D] or [num_vectors,D]}`. Raises UserError, changing
    nothing, when it does not, or when width or token do not suit the model.
    """
    file = Path(path) / TOKEN_FILE if Path(path).is_dir() else Path(path)
    try:
        state = load_file(file)
    except Exception as error:
        message = f"{file} is not a safetensors file that can be read ({reason(error)})."
        raise UserError(message) from error
    if len(state) != 1 or next(iter(state.values())).dim() not in (1, 2):
        raise UserError(
            f"{file} holds {len(state)} tensors: a textual-inversion file holds one, named by its "
            "token, of shape [D] or [n, D]."
        )
    token, rows = next(iter(state.items()))
    if isinstance(target, LatentDiffusion):
        target.restore("text_encoder")
        pipeline = target.pipeline()
    else:
        pipeline = target
    embedding = pipeline.text_encoder.get_input_embeddings()
    if rows.shape[-1] != embedding.embedding_dim:
        raise UserError(
            f"{file} has embeddings of width {rows.shape[-1]} and the model "
            f"{embedding.embedding_dim}: use a token that was trained for this base model."
        )
    vocabulary = pipeline.tokenizer.get_vocab()
    if token in vocabulary or f"{token}_1" in vocabulary:
        raise UserError(f"the tokenizer knows {token} already: load {file} into a fresh model.")
    with keep_random_state():
        pipeline.load_textual_inversion({token: rows})
    return token
