"""Keep features on the disk by image hash, in one folder per encoder, shared by all runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from dreambooth.files import cache_key
from dreambooth.scratch import remove_leftovers
from dreambooth.tensors import Damaged, read_tensors, write_tensors

log = logging.getLogger(__name__)


class FeatureCache:
    """The features `[D]` of one encoder by the SHA-256 of their images.

    `encoder_id` changes with weights, architecture and preprocessing, and each has a folder of its
    own. Every addition is a new file, so that its cost does not depend on what is stored, parallel
    jobs can share the folder, and a killed job leaves it whole. A process reads each file once; a
    damaged file counts as empty, with a warning.
    """

    def __init__(self, folder: Path | str, encoder_id: str) -> None:
        self.folder = Path(folder) / encoder_id
        self._known: dict[str, Tensor] = {}
        self._read: set[str] = set()

    def read(self) -> dict[str, Tensor]:
        """Read all stored features, float32, those that other jobs added too."""
        if not self._read:
            remove_leftovers(self.folder)
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._read:
                self._known.update(self._load(path))
                self._read.add(path.name)
        return self._known

    def add(self, features: dict[str, Tensor]) -> None:
        """Store new features in one more file."""
        digests = sorted(features)
        path = self.folder / f"{cache_key(digests=digests)}.safetensors"
        rows = torch.stack([features[digest] for digest in digests])
        named = {"digests": json.dumps(digests), "encoder": self.folder.name}
        write_tensors(path, {"features": rows}, named)
        self._known.update(features)
        self._read.add(path.name)

    def _load(self, path: Path) -> dict[str, Tensor]:
        try:
            tensors, named = read_tensors(path)
            if named.get("encoder") != self.folder.name:
                raise Damaged("it is another encoder's")
            return dict(zip(json.loads(named["digests"]), tensors["features"], strict=True))
        except FileNotFoundError:  # another process has removed it
            return {}
        except Damaged as error:
            log.warning("%s is damaged (%s): its features are computed again.", path, error)
            path.unlink(missing_ok=True)
            return {}
