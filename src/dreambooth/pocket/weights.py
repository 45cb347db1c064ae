"""Where the embedded model's weights lie."""

from __future__ import annotations

from pathlib import Path

from dreambooth.errors import UserError


def weights_folder() -> Path:
    """The pocket pipeline's folder inside this package.

    Raises:
        UserError: the weights are not there.
    """
    folder = Path(__file__).parent / "weights"
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"The embedded model's weights are missing from {folder}: restore them with "
            "`git checkout -- src/dreambooth/pocket/weights`, or reinstall the package."
        )
    return folder
