"""Features on disk, in a folder per encoder, keyed by image hash, shared by runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreambooth.files import atomic, cache_key


class FeatureCache:
    """`{image sha256: features [D]}` of one encoder.

    `encoder_id` names weights, architecture and preprocessing, so a change of any is a new folder.
    What is added becomes a file of its own, written whole, so adding costs the same however much
    is stored, parallel jobs share the folder and a killed one leaves it as it was. Each file is
    read once in a process; an unreadable one counts as empty.
    """

    def __init__(self, folder: Path | str, encoder_id: str) -> None:
        self.folder = Path(folder) / encoder_id
        self._known: dict[str, Tensor] = {}
        self._read: set[str] = set()

    def read(self) -> dict[str, Tensor]:
        """All stored features, float32; other jobs' as well as this one's."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._read:
                self._known.update(_load(path))
                self._read.add(path.name)
        return self._known

    def add(self, features: dict[str, Tensor]) -> None:
        """Store new features as one more file."""
        digests = sorted(features)
        path = self.folder / f"{cache_key(digests=digests)}.safetensors"
        with atomic(path) as temporary:
            rows = torch.stack([features[digest] for digest in digests])
            save_file({"features": rows}, temporary, {"digests": json.dumps(digests)})
        self._known.update(features)
        self._read.add(path.name)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            digests, rows = json.loads(file.metadata()["digests"]), file.get_tensor("features")
            return dict(zip(digests, rows, strict=True))
    except (OSError, SafetensorError):
        return {}
