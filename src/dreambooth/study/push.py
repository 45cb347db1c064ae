"""Upload a finished run to the model hub: `export.push_to_hub=ORG/NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreambooth.errors import UserError, reason

# of a run's folder, what goes to the hub; `model/*` goes to the top, where loaders look for it
BESIDE = ["README.md", "exports/*/*", "exports/*/*/*", "samples/final/*", "samples/final.png"]


def push(folder: Path, repo: str, api: Any = None) -> str:
    """Upload the model, its layouts, its card and its final samples; return the page's address.

    The repository is made, private, if there is none. Photos, checkpoints and logs stay here.

    Args:
        api: a `huggingface_hub.HfApi`, one with the stored token by default.

    Raises:
        UserError: the hub refuses, or is not reachable; the run stays as it is.
    """
    from huggingface_hub import HfApi

    from dreambooth.study.card import write_card  # takes a second, and the command line none

    api = api or HfApi()
    try:
        write_card(folder)
        url = api.create_repo(repo, private=True, exist_ok=True)
        message = "Upload by dreambooth"
        if (folder / "model").is_dir():
            api.upload_folder(repo_id=repo, folder_path=folder / "model", commit_message=message)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=BESIDE, commit_message=message
        )
        return str(url)
    except UserError:
        raise
    except Exception as error:  # the client raises its HTTP library's own types
        raise UserError(
            f"export.push_to_hub={repo} was not uploaded ({reason(error)}); the run is complete: "
            f"upload it with `hf upload {repo} {folder}/model`."
        ) from error


def require_token(repo: str) -> None:
    """Refuse an upload for which the hub would ask who it is.

    Raises:
        UserError: no token, or a name that is not ORG/NAME.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise UserError(f"export.push_to_hub={repo} is no ORG/NAME ({reason(error)}).") from error
    if repo.count("/") != 1:
        raise UserError(f"export.push_to_hub={repo} is no ORG/NAME: name the owner too.")
    if get_token() is None:
        raise UserError(
            f"export.push_to_hub={repo} needs a token of the model hub: log in with `hf auth "
            "login`, or set HF_TOKEN."
        )
