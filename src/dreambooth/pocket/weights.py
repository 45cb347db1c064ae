"""Where the embedded model's weights lie, and what they are."""

from __future__ import annotations

from pathlib import Path

from dreambooth.cache import cache_key, file_hash
from dreambooth.errors import RESTORE, UserError

FOLDER = Path(__file__).parent / "weights"


def weights_folder() -> Path:
    """The pocket pipeline's folder inside this package.

    Raises:
        UserError: the weights are not there.
    """
    if not (FOLDER / "model_index.json").is_file():
        raise UserError(f"The embedded model lacks {FOLDER / 'model_index.json'}: {RESTORE}.")
    return FOLDER


def weights_hash(folder: Path) -> str:
    """16 hex digits over the relative paths and bytes of every .safetensors file below `folder`.

    Figures and the weights that they were measured on are matched by it; cards and configurations
    do not count.
    """
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.safetensors")}
    return cache_key(**{name: file_hash(path) for name, path in files.items()})
