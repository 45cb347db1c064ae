"""Keep features on the disk by image hash, in one folder per encoder, shared by all runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreambooth.files import atomic, cache_key


class FeatureCache:
    """The features `[D]` of one encoder by the SHA-256 of their images.

    `encoder_id` changes with weights, architecture and preprocessing, and each has a folder of its
    own. Every addition is a new file, so that its cost does not depend on what is stored, parallel
    jobs can share the folder, and a killed job leaves it whole. A process reads each file once; a
    damaged file counts as empty.
    """

    def __init__(self, folder: Path | str, encoder_id: str) -> None:
        self.folder = Path(folder) / encoder_id
        self._known: dict[str, Tensor] = {}
        self._read: set[str] = set()

    def read(self) -> dict[str, Tensor]:
        """Read all stored features, float32, those that other jobs added too."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._read:
                self._known.update(_load(path))
                self._read.add(path.name)
        return self._known

    def add(self, features: dict[str, Tensor]) -> None:
        """Store new features in one more file."""
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
