"""Features on disk: one safetensors file per encoder, keyed by image hash, shared by runs."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreambooth.cache import atomic, locked


class FeatureCache:
    """`{image sha256: features [D]}` of one encoder.

    `encoder_id` names preprocessing and weights, so a change of either is a new file. Writes merge
    under a lock and replace the file whole, so parallel jobs share it and a killed one leaves the
    old file; an unreadable file counts as empty and is written anew.
    """

    def __init__(self, folder: Path | str, encoder_id: str) -> None:
        self.path = Path(folder) / f"{encoder_id}.safetensors"

    def read(self) -> dict[str, Tensor]:
        """All stored features, float32; empty where there is no readable file."""
        try:
            return load_file(self.path)
        except (FileNotFoundError, SafetensorError):
            return {}

    def add(self, features: dict[str, Tensor]) -> None:
        """Merge new features into the file."""
        with locked(self.path):
            merged = {**self.read(), **{k: v.contiguous() for k, v in features.items()}}
            with atomic(self.path) as temporary:
                save_file(merged, temporary)
