"""What others made, put into a model: weighted adapters and embeddings, by file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.files import file_hash, folder_hash
from dreambooth.model.adapters.formats import find_adapter
from dreambooth.model.adapters.merging import merge_file
from dreambooth.model.adapters.peft_kinds import PEFT_CONFIG, PEFT_FILE, network_folders
from dreambooth.model.interface import BaseModel
from dreambooth.model.textual_inversion import other_name
from dreambooth.model.token_files import find_token, load_token, read_token


@dataclass(frozen=True)
class AddedAdapter:
    """An adapter's file or folder, and what its update is multiplied by."""

    file: Path
    weight: float

    @classmethod
    def parse(cls, text: str) -> AddedAdapter:
        """Read `FILE_OR_FOLDER` or `FILE_OR_FOLDER:WEIGHT`.

        Raises:
            UserError: there is no adapter, or the weight is no finite number.
        """
        path, end = _split(text)
        try:
            weight = float(end or 1)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise UserError(
                f"adapters: the weight {end} of {path} is no number: write FILE:0.8, or FILE for a "
                "weight of 1."
            )
        return cls(find_adapter(path), weight)

    @property
    def record(self) -> dict[str, Any]:
        """Name, hash and weight, as JSON values."""
        digest = adapter_hash(self.file)
        return {"name": _name(self.file), "sha256": digest, "weight": self.weight}


@dataclass(frozen=True)
class AddedEmbedding:
    """A textual inversion's file, and its token; `renamed` is the word that the user gave it."""

    file: Path
    token: str
    vectors: int
    renamed: bool

    @classmethod
    def parse(cls, text: str) -> AddedEmbedding:
        """Read `FILE_OR_FOLDER` or `FILE_OR_FOLDER:TOKEN`, which gives the token another name.

        Raises:
            UserError: there is no file, or it is no textual inversion.
        """
        path, end = _split(text)
        file = find_token(path)
        read = read_token(file)
        return cls(file, end or read.token, read.num_vectors, bool(end))

    @property
    def record(self) -> dict[str, Any]:
        """Name, hash and token, as JSON values."""
        return {"name": _name(self.file), "sha256": file_hash(self.file), "token": self.token}


@dataclass(frozen=True)
class Additions:
    """Adapters and embeddings, in the order in which they are put into a model."""

    adapters: tuple[AddedAdapter, ...] = ()
    embeddings: tuple[AddedEmbedding, ...] = ()

    @classmethod
    def parse(cls, adapters: Sequence[str], embeddings: Sequence[str]) -> Additions:
        """Read what a command line gives; only the embeddings' files are opened.

        Raises:
            UserError: names the file at fault, or a token that two files have.
        """
        found = cls(
            tuple(AddedAdapter.parse(text) for text in adapters),
            tuple(AddedEmbedding.parse(text) for text in embeddings),
        )
        tokens = [each.token for each in found.embeddings]
        for token in tokens:
            if tokens.count(token) > 1:
                raise UserError(
                    f"embeddings: two files hold the token {token}: give one another name, as "
                    f"FILE:{other_name(token)}."
                )
        return found

    @property
    def record(self) -> dict[str, list[dict[str, Any]]]:
        """Describe them as JSON values; a kind that there is none of is left out."""
        records = {
            "adapters": [each.record for each in self.adapters],
            "embeddings": [each.record for each in self.embeddings],
        }
        return {kind: entries for kind, entries in records.items() if entries}

    def scaled(self, weight: float) -> Additions:
        """Multiply the weight of every adapter by `weight`."""
        scaled = [replace(each, weight=each.weight * weight) for each in self.adapters]
        return replace(self, adapters=tuple(scaled))

    def put_into(self, model: BaseModel) -> list[str]:
        """Put all of them into a model; return a sentence on each.

        Adapters are merged, see `merging`; the model's own adapters stay as they are.

        Raises:
            UserError: one does not fit the model.
        """
        lines = []
        for adapter in self.adapters:
            lines.append(str(merge_file(model, adapter.file, adapter.weight)))
        for each in self.embeddings:
            load_token(model, each.file, each.token)
            vectors = "1 vector" if each.vectors == 1 else f"{each.vectors} vectors"
            lines.append(f"{each.file}: token {each.token}, {vectors}.")
        return lines


def adapter_hash(file: Path) -> str:
    """Hash an adapter's file, with its config where it is in PEFT's layout: alpha is only there.

    Of a folder with one for each network, these files of all of them.
    """
    if file.is_dir():
        places = network_folders(file).values()
        return folder_hash(file, [p / name for p in places for name in (PEFT_FILE, PEFT_CONFIG)])
    config = file.parent / PEFT_CONFIG
    is_pair = file.name == PEFT_FILE and config.is_file()
    return folder_hash(file.parent, [file, config]) if is_pair else file_hash(file)


def _split(text: str) -> tuple[str, str]:
    """Split `PATH:END`; a path that exists is not split."""
    path, colon, end = str(text).rpartition(":")
    return (str(text), "") if not colon or Path(text).exists() else (path, end)


def _name(file: Path) -> str:
    """Name a file without the path of this machine; a usual name by its folder or its run's."""
    usual = ("pytorch_lora_weights", "adapter_model", "learned_embeds")
    file = file.resolve()
    folder = file if file.is_dir() else file.parent
    folder = folder.parent if folder.name == "model" else folder
    return folder.name if file.is_dir() or file.stem in usual else file.stem
