"""Files of one token's embeddings: written as other programs read them, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth.errors import UserError, reason
from dreambooth.files import atomic
from dreambooth.model.interface import BaseModel
from dreambooth.model.textual_inversion import (
    TokenSettings,
    add_words,
    known_word,
    other_name,
    spelled,
    token_keys,
    token_rows,
)
from dreambooth.weights_files import read_header

TOKEN_FILE = "learned_embeds.safetensors"
CLIPS = {"clip_l", "clip_g"}  # the tensors of a file for two text encoders
NAME = "token"  # in the metadata of such a file, whose tensors do not name it


def save_token(
    model: BaseModel,
    settings: TokenSettings,
    path: str | Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the token's embeddings `[num_vectors,D]` as safetensors in `dtype`, atomically.

    `{token: ...}` for one text encoder, which diffusers' `load_textual_inversion(path)` loads;
    `{"clip_l": ..., "clip_g": ...}` for two, with the token in the metadata.
    """
    rows = token_rows(model, settings).items()
    state = {name: each.cpu().to(dtype).contiguous() for name, each in rows}
    with atomic(path) as file:
        save_file(state, file, None if settings.token in state else {NAME: settings.token})


def find_token(path: str | Path) -> Path:
    """Find the file at `path`, or `learned_embeds.safetensors` in a folder or a finished run.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    for file in (path, path / TOKEN_FILE, path / "model" / TOKEN_FILE):
        if file.is_file():
            return file
    raise UserError(
        f"there is no textual inversion at {path}: give a .safetensors file, the folder of a run "
        f"that trained one, or a folder with {TOKEN_FILE}."
    )


@dataclass(frozen=True)
class TokenFile:
    """A token and its embeddings `[num_vectors,D]`, by the name that the file has for them."""

    token: str
    rows: Mapping[str, Tensor]

    @property
    def num_vectors(self) -> int:
        """The number of embeddings that stand for the token in each text encoder."""
        return len(next(iter(self.rows.values())))


def read_token(file: Path) -> TokenFile:
    """Read a file of one token's embeddings.

    It holds one tensor, `{token: [D] or [num_vectors,D]}`, or `clip_l` and `clip_g`, one for each
    text encoder of SDXL, whose token is in the metadata of files written here. AUTOMATIC1111's
    files call a single tensor `emb_params`. Where nothing names the token, the file's name does.

    Raises:
        UserError: it does not.
    """
    try:
        state = {name: torch.atleast_2d(tensor) for name, tensor in load_file(file).items()}
        metadata = read_header(file).get("__metadata__", {})
    except Exception as error:
        message = f"{file} is not a safetensors file that can be read ({reason(error)})."
        raise UserError(message) from error
    is_pair = state.keys() == CLIPS
    sizes = {len(tensor) if tensor.dim() == 2 else 0 for tensor in state.values()}
    if len(state) != 1 + is_pair or len(sizes) > 1 or 0 in sizes:
        raise UserError(
            f"{file} holds {len(state)} tensors: a textual-inversion file holds one, named by its "
            "token, of shape [D] or [n, D], or clip_l and clip_g for SDXL, of n rows each."
        )
    own = next(iter(state))
    is_unnamed = is_pair or own == "emb_params"
    return TokenFile(metadata.get(NAME, file.stem) if is_unnamed else own, state)


def load_token(model: BaseModel, path: str | Path, token: str | None = None) -> str:
    """Add the token of a file or a folder (see `read_token`) to a model; return its name.

    Several vectors become the words `token`, `token_1` and so on, as diffusers has them.

    Args:
        token: the name that it gets; None is its own.

    Raises:
        UserError: there is none, or its width or token do not suit the model, which is left as it
            was.
    """
    file = find_token(path)
    read = read_token(file)
    token = token or read.token
    _check_fit(model, file, read)
    # a second vector's word would collide with that of a token that is there
    if known_word(model, spelled(token, max(read.num_vectors, 2))):
        raise UserError(
            f"the tokenizer knows {token} already: load {file} into a fresh model, or give it "
            f"another name, as embeddings=[{file}:{other_name(token)}]."
        )
    add_words(model, spelled(token, read.num_vectors), _by_encoder(model, read))
    return token


def _by_encoder(model: BaseModel, read: TokenFile) -> dict[str, Tensor]:
    """List a file's embeddings by the text encoder that they are for."""
    keys = token_keys(model, next(iter(read.rows)))
    return {encoder: read.rows[key] for encoder, key in keys.items()}


def _check_fit(model: BaseModel, file: Path, read: TokenFile) -> None:
    encoders = model.token_encoders
    if not encoders:
        raise UserError(
            f"{file} cannot be used: the text encoder of {model.layout.described} takes no new "
            "words."
        )
    if len(read.rows) != len(encoders):
        raise UserError(
            f"{file} has embeddings for {len(read.rows)} text encoders and the model "
            f"{len(encoders)}: use a token that was trained for this base model."
        )
    for encoder, rows in _by_encoder(model, read).items():
        width = model.network(encoder).get_input_embeddings().embedding_dim
        if rows.shape[-1] != width:
            raise UserError(
                f"{file} has embeddings of width {rows.shape[-1]} and the model {width}: use a "
                "token that was trained for this base model."
            )
