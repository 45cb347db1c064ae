"""A base model as it is, or with what others made, for pictures and scores without a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth.data.prompts import SubjectWords
from dreambooth.model.adapters.additions import Additions
from dreambooth.model.architectures import architecture_of, load_model
from dreambooth.model.interface import BaseModel
from dreambooth.model.source import locate
from dreambooth.pocket.embedded import model_path
from dreambooth.sampling.provenance import Weights
from dreambooth.sampling.spec import Sampling

log = logging.getLogger(__name__)


def load_base(base: Mapping[str, Any]) -> BaseModel:
    """Load the model of a block `model`: its path, revision, variant and sequence length, if any.

    Raises:
        UserError: it is not there, or not whole.
    """
    path = model_path(base["path"])
    return load_model(path, base["revision"], base["variant"], base.get("max_sequence_length"))


def base_hash(base: Mapping[str, Any]) -> str:
    """Hash the files of that model, without loading it."""
    path, revision = model_path(base["path"]), base["revision"]
    layout = architecture_of(path, revision).layout
    length = base.get("max_sequence_length")
    return locate(path, revision, base["variant"], layout, length).weights_hash


@dataclass(frozen=True)
class PlainModel:
    """A base model, with the words of what it draws; where a run has a folder, it has none."""

    base: Mapping[str, Any]
    sampling: Sampling
    words: SubjectWords
    folder: None = None


@dataclass(frozen=True)
class PlainWeights:
    """A base model's weights with `additions`, whose adapters `adapter_weight` multiplies."""

    model: PlainModel
    additions: Additions

    def describe(self, adapter_weight: float = 1.0) -> Weights:
        """Name these weights by their hashes, without loading them.

        Raises:
            UserError: the model is not there.
        """
        base, added = self.model.base, self.additions.record
        hashes = {"base": base_hash(base)}
        return Weights(base["name"], "base", "", hashes, None, adapter_weight, added)

    def load(self, adapter_weight: float = 1.0) -> BaseModel:
        """Load the model with these weights, frozen, in evaluation mode, on the CPU.

        Raises:
            UserError: the model is not there, or an addition does not fit it.
        """
        model = load_base(self.model.base)
        for line in self.additions.scaled(adapter_weight).put_into(model):
            log.info(line)
        return model.requires_grad_(False).eval()
