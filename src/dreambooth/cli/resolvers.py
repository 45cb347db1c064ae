"""The resolvers that the YAML files use: `${if:...}`, `${last_word:...}` and the like."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dreambooth.errors import UserError


def slug(text: str) -> str:
    """Turn overrides into one folder name, without separators or spaces, of at most 200 characters.

    A longer text keeps a hash of the whole, so that two runs of a sweep never share a folder.
    """
    name = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text) or "run"
    if len(name) <= 200:
        return name
    return f"{name[:190]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def drawing(text: str) -> str:
    """Name the folder of what generate.py draws by its overrides, so that a repeat finds it.

    A name that lost characters keeps a hash of them, so that two commands never share a folder.
    """
    if not text:
        return "images"
    plain = text.replace("'", "")  # the quotes of an axis
    name, digest = slug(plain), hashlib.sha256(plain.encode()).hexdigest()[:8]
    return name if name == plain or name.endswith(digest) else f"{name[:190]}-{digest}"


def finished(run: str) -> str:
    """Return `run`, the folder of a finished run.

    Raises:
        UserError: the folder holds no `run.json`.
    """
    if not (Path(run) / "run.json").is_file():
        raise UserError(
            f"run={run} is not a finished run (it holds no run.json): give the output folder of a "
            "train.py run that has ended."
        )
    return run


def help_text(command: str, *, _root_: DictConfig) -> str:
    """Return the text of `--help`; `$` is doubled, as Hydra's template needs it."""
    from dreambooth.cli.help import help_of  # only where it is shown

    return help_of(command, _root_).replace("$", "$$")


for name, function in {
    "if": lambda condition, yes, no: yes if condition else no,
    "last_word": lambda text: text.split()[-1],
    "slug": slug,
    "drawing": drawing,
    "finished": finished,
    "help": help_text,
}.items():
    OmegaConf.register_new_resolver(name, function, replace=True)
