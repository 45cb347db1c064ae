"""Word an error that a user can fix as one sentence, with the nearest key or choice that exists."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

from dreambooth.cli.configuration.configs import groups_of
from dreambooth.cli.refusals.suggest import no_choice, no_key
from dreambooth.cli.sweeps.jobs import SweepFailed
from dreambooth.errors import UserError
from dreambooth.files import disk_full

UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
UNUSABLE += (errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP)


def sentence(error: Exception) -> str | None:
    """Word an error that the user can fix; None for any other."""
    inner: BaseException | None = error
    while isinstance(inner, OmegaConfBaseException):  # a resolver's own error
        inner = inner.__context__
    if isinstance(inner, UserError | SweepFailed):
        return str(inner)
    if isinstance(error, OmegaConfBaseException):
        return f"The configuration is not complete: {str(error).splitlines()[0]}."
    if isinstance(error, InstantiationException):
        key = re.search(r"full_key: (\S+)", str(error))
        reason = " ".join(str(error.__cause__ or error).split("\n\n")[0].split())
        where = key[1] if key else "The configuration"
        return f"{where} cannot be set up: {reason.rstrip('.')}."
    if disk_full(error):
        return f"The disk is full ({error}): free some space and run the same command again."
    if isinstance(error, OSError) and error.filename and _is_unusable(error):
        name = str(error.filename)
        name = name if len(name) <= 200 else f"{name[:100]}..."
        return f"{name} cannot be used ({error.strerror}): choose another path."
    return None


def _is_unusable(error: OSError) -> bool:
    """Tell whether a path is at fault; the system's own folders say that they do not exist."""
    absent = error.errno == errno.ENOENT and str(error.filename).startswith(("/proc/", "/sys/"))
    return absent or error.errno in UNUSABLE


def _where(error: Exception) -> str:
    """Name the file that raised an error which is none of Hydra's own; empty for those."""
    if isinstance(error, HydraException):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.replace("\\", "/") if frames else ""


def composition_error(command: str, error: Exception, folders: Sequence[Path]) -> str | None:
    """Word what Hydra refuses in a command line, with the nearest key or choice that exists."""
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be"):
        return "A group cannot be null: leave it out, or take a preset's out as in '~scheduler'."
    if _where(error).endswith("hydra/_internal/defaults_list.py"):  # it checks no types
        return "A group takes the name of a preset, as in scheduler=ddim, or a list of such names."
    if isinstance(error, InstantiationException) or not isinstance(error, HydraException):
        return None
    first = str(error).strip().splitlines()[0].strip()
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return no_choice(group, name, error.options)
    if unknown := re.match(r"Could not (?:override|delete from config\.) '([^']+)'", first):
        return no_key(command, unknown[1], folders)
    if several := re.match(r"Ambiguous value for argument '(\S+?)=(.*)'$", first):
        key, values = several.groups()
        if command == "report":
            return f"{key}={values} is no folder: give the one that all these runs lie in."
        is_group = key in groups_of(command) or "/" in key  # of which one choice is taken
        one_list = "" if is_group else f", or write '{key}=[{values}]' for one list"
        return f"{key}={values} holds several values: add -m to run once with each{one_list}."
    if isinstance(error, OverrideParseException):
        return (
            f"The command line cannot be read at {error.override}: write key=value, and quote a "
            "value with spaces or any of ,=[]{}() twice, as in 'class_prompt=\"a dog, asleep\"'."
        )
    return f"The configuration cannot be composed: {first.rstrip('.')}."
