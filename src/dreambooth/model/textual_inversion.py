"""New words with embeddings of their own (textual inversion, Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreambooth.errors import UserError, reason
from dreambooth.files import atomic
from dreambooth.model.interface import BaseModel
from dreambooth.model.loading import keep_random_state
from dreambooth.model.settings import require_integer

TOKEN_FILE = "learned_embeds.safetensors"


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
        """`<t>, <t>_1, ... <t>_{n-1}`: what diffusers calls the vectors of one token.

        >>> TokenSettings("<t>", "dog", 3).words
        ['<t>', '<t>_1', '<t>_2']
        """
        return [self.token] + [f"{self.token}_{i}" for i in range(1, self.num_vectors)]


def other_name(token: str) -> str:
    """Suggest a word that no model has, in the place of `token`."""
    return f"<{token.strip('<>')}-1>"


def check_token(model: BaseModel, settings: TokenSettings) -> list[int]:
    """Return the initializer's tokens, and change nothing.

    Raises:
        UserError: the model knows one of the new words, or no word of the initializer.
    """
    if len(model.text_encoders) > 1:
        raise UserError(
            f"method.token.token={settings.token}: a new token trains in one text encoder, and "
            f"this model has {len(model.text_encoders)}: choose another method, such as lora."
        )
    vocabulary = model.tokenizer.get_vocab()
    for word in settings.words:
        if word in vocabulary or f"{word}</w>" in vocabulary:
            raise UserError(
                f"method.token.token={settings.token}: the tokenizer knows {word} already, so give "
                f"a word that no model has, such as {other_name(settings.token)}."
            )
    initializer = model.tokenizer.encode(settings.initializer, add_special_tokens=False)
    if not {*initializer} - {*model.tokenizer.all_special_ids}:
        raise UserError(
            f"method.token.initializer={settings.initializer} holds no word of this model: use one "
            "that describes the subject, such as dog or pattern."
        )
    return initializer


def add_token(model: BaseModel, settings: TokenSettings) -> None:
    """Give the tokenizer and the text encoder the new words, starting at the initializer.

    Every other row of the embedding matrix is kept bit for bit.

    Raises:
        UserError: as `check_token`.
    """
    initializer = check_token(model, settings)
    model.restore("text_encoder")
    model.tokenizer.add_tokens(settings.words)
    embedding = model.text_encoder.get_input_embeddings()
    # some matrices are longer than needed
    rows = max(embedding.num_embeddings, len(model.tokenizer))
    with keep_random_state():  # the new rows' own initial values are drawn and then overwritten
        embedding = model.text_encoder.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        embedding.weight[token_ids(model, settings)] = embedding.weight[initializer].mean(0)


def has_token(model: BaseModel, settings: TokenSettings) -> bool:
    """Tell whether every word of `settings` has been added to the model."""
    added = model.tokenizer.get_added_vocab().keys() - {*model.tokenizer.all_special_tokens}
    return added.issuperset(settings.words)


def token_ids(model: BaseModel, settings: TokenSettings) -> list[int]:
    """List the rows `[num_vectors]` of the embedding matrix that belong to the token's words."""
    return model.tokenizer.convert_tokens_to_ids(settings.words)


def token_rows(model: BaseModel, settings: TokenSettings) -> Tensor:
    """Copy the token's embeddings, detached float32 `[num_vectors,D]`."""
    return _matrices(model)[-1].detach()[token_ids(model, settings)].float()


@torch.no_grad()
def set_token_rows(model: BaseModel, settings: TokenSettings, rows: Tensor) -> None:
    """Overwrite the token's embeddings with `rows [num_vectors,D]`."""
    for matrix in _matrices(model):
        matrix[token_ids(model, settings)] = rows.to(matrix)


def _matrices(model: BaseModel) -> list[Tensor]:
    """List the embedding matrix `[V,D]` and its float32 master, where the encoder was cast."""
    weight = model.text_encoder.get_input_embeddings().weight
    name = next(name for name, p in model.text_encoder.named_parameters() if p is weight)
    master = model.masters.get("text_encoder")
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


def save_token(
    model: BaseModel,
    settings: TokenSettings,
    path: str | Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `{token: [num_vectors,D]}` as safetensors in `dtype`, atomically.

    The `load_textual_inversion(path)` of diffusers' pipelines loads it.
    """
    with atomic(path) as file:
        save_file({settings.token: token_rows(model, settings).cpu().to(dtype).contiguous()}, file)


def find_token(path: str | Path) -> Path:
    """Find the file at `path`, or `learned_embeds.safetensors` in a folder.

    Raises:
        UserError: there is none.
    """
    file = Path(path) / TOKEN_FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(
            f"there is no textual inversion at {path}: give a .safetensors file or a folder with "
            f"{TOKEN_FILE}."
        )
    return file


def read_token(file: Path) -> tuple[str, Tensor]:
    """Read a file's token and its embeddings `[num_vectors,D]`.

    The file holds one tensor, `{token: [D] or [num_vectors,D]}`. AUTOMATIC1111's files call it
    `emb_params`; their token is the file's name.

    Raises:
        UserError: it does not.
    """
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
    return (file.stem if token == "emb_params" else token), torch.atleast_2d(rows)


def load_token(model: BaseModel, path: str | Path, token: str | None = None) -> str:
    """Add the token of a file or a folder (see `read_token`) to a model; return its name.

    Args:
        token: the name that it gets; None is its own.

    Raises:
        UserError: there is none, or its width or token do not suit the model, which is left as it
            was.
    """
    file = find_token(path)
    own, rows = read_token(file)
    token = token or own
    width = model.text_encoder.get_input_embeddings().embedding_dim
    if rows.shape[-1] != width:
        raise UserError(
            f"{file} has embeddings of width {rows.shape[-1]} and the model {width}: use a token "
            "that was trained for this base model."
        )
    vocabulary = model.tokenizer.get_vocab()
    if {token, f"{token}</w>", f"{token}_1"} & vocabulary.keys():
        raise UserError(
            f"the tokenizer knows {token} already: load {file} into a fresh model, or give it "
            f"another name, as embeddings=[{file}:{other_name(token)}]."
        )
    model.restore("text_encoder")
    with keep_random_state():
        model.pipeline().load_textual_inversion({token: rows})
    return token
