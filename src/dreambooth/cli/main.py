"""The command line: composing a config, and errors in one sentence; imports nothing heavy."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.cli import resolvers  # noqa: F401  registers them
from dreambooth.errors import UserError
from dreambooth.files import disk_full

UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
PACKAGE = Path(__file__).resolve().parents[1]
# a wheel holds conf/ inside the package, a checkout at its top level
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"

OmegaConf.register_new_resolver("slug", lambda text: _slug(text), replace=True)
OmegaConf.register_new_resolver("finished", lambda run: _finished(run), replace=True)

DIFFUSERS = {
    "learning_rate": "lr",
    "max_train_steps": "max_steps",
    "with_prior_preservation": "ppl",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "prior_loss_weight": "prior.weight",
    "mixed_precision": "trainer.precision",
    "pretrained_model_name_or_path": "model.path",
    "instance_data_dir": "subject.photos",
    "class_data_dir": "prior.images_dir",
    "snr_gamma": "loss.min_snr_gamma",
}


def _slug(text: str) -> str:
    """Overrides as one folder name: no separators or spaces, as long as file systems allow.

    Two long texts that begin alike keep two names, or two runs of a sweep would share a folder.
    """
    slug = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text) or "run"
    if len(slug) <= 200:
        return slug
    return f"{slug[:190]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _finished(run: str) -> str:
    """`run` where it is a finished one: generate.py makes its folders below it."""
    if not (Path(run) / "run.json").is_file():
        raise UserError(
            f"run={run} is not a finished run (it holds no run.json): give the output folder of a "
            "train.py run that has ended."
        )
    return run


def check_choices(arguments: list[str]) -> None:
    """Refuse `group=name` where the group has no such file, and suggest the nearest.

    Raises:
        UserError: names the choice and the nearest one there is.
    """
    for argument in arguments:
        group, _, values = argument.lstrip("+").partition("=")
        if "(" in values or not group or not (CONF / group).is_dir():
            continue
        names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for value in values.split(","):
            if value not in names and value != "null":
                near = get_close_matches(value, names, n=1, cutoff=0.4)
                hint = f"did you mean {group}={near[0]}?" if near else f"choose {', '.join(names)}."
                own = " For your own photos: subject=folder subject.photos=DIR"
                own = own + " subject.class_noun=dog." if group == "subject" else ""
                raise UserError(f"{group}={value} does not exist: {hint}{own}")


def check_added(name: str, arguments: list[str]) -> None:
    """Refuse `+key=value` for a key that nothing reads; a group's own options stay open.

    Raises:
        UserError: names the key and the nearest one there is.
    """
    for argument in arguments:
        if not argument.startswith("+"):
            continue
        key = argument.lstrip("+").partition("=")[0]
        block = re.split("[.@/]", key)[0]
        if block == "hydra" or (CONF / block).is_dir():
            continue
        if key not in _keys(OmegaConf.load(CONF / f"{name}.yaml")):
            raise UserError(_no_key(name, key))


def entry(name: str, run: Callable[[DictConfig], int | None]) -> None:
    """Compose `conf/<name>.yaml` with the command line and run; a user's error exits with 2.

    In a sweep the other runs go on, and the exit code says that one failed.
    """
    failed = []

    @hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")
    def main(cfg: DictConfig) -> None:
        code = None
        try:
            code = run(cfg)
        except Exception as error:
            _say(name, error)
            failed.append(error)
        if code:
            sys.exit(code)

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be worded
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # speaks of kernels nobody uses
    try:
        check_choices(sys.argv[1:])
        check_added(name, sys.argv[1:])
        main()
    except Exception as error:
        _say(name, error)
        failed.append(error)
    except KeyboardInterrupt:
        print("\nStopped. The same command begins again with what is cached.", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(2)


def _say(name: str, error: Exception) -> None:
    """Print what a user can mend as one sentence; raise anything else again."""
    inner = error
    while isinstance(inner, OmegaConfBaseException):
        inner = inner.__context__
    error = inner if isinstance(inner, UserError) else error  # a resolver's
    text = str(error)
    if isinstance(error, OmegaConfBaseException):
        text = f"The configuration is not complete: {text.splitlines()[0]}."
    elif isinstance(error, InstantiationException):
        text = _cause(error)
    elif isinstance(error, HydraException):
        text = _worded(name, error)
    elif disk_full(error):
        text = f"The disk is full ({text}): free some room and run the same command again."
    elif isinstance(error, OSError) and error.errno in UNUSABLE and error.filename:
        text = f"{error.filename} cannot be used ({error.strerror}): choose another place."
    elif not isinstance(error, UserError):
        raise error
    if "LOCAL_RANK" not in os.environ or os.environ["LOCAL_RANK"] == "0":  # one rank speaks
        print(f"error: {text}", file=sys.stderr, flush=True)


def _cause(error: InstantiationException) -> str:
    """What the object that could not be made said itself, and its key."""
    key = re.search(r"full_key: (\S+)", str(error))
    lines = str(error.__cause__ or error).split("\n\n")[0].split()
    where = f"{key[1]} cannot be set up" if key else "The configuration cannot be set up"
    return f"{where}: {' '.join(lines).rstrip('.')}."


def _worded(name: str, error: HydraException) -> str:
    """Hydra's error as one sentence; of an unknown key, with the nearest one there is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.match(r"Could not override '([^']+)'", lines[0])
    if unknown is None:
        return f"The command line cannot be read: {lines[0].rstrip('.')}."
    return _no_key(name, unknown[1])


def _no_key(name: str, key: str) -> str:
    known = _keys(OmegaConf.load(CONF / f"{name}.yaml"))
    for file in CONF.glob("*/*.yaml"):
        known |= {file.parent.name} | _keys(OmegaConf.load(file), f"{file.parent.name}.")
    # a key is also meant by its last word, or by the name that diffusers' script gives it
    meant = {k.split(".")[-1]: k for k in sorted(known)} | DIFFUSERS | {k: k for k in known}
    near = get_close_matches(key, sorted(meant), n=1)
    hint = f"did you mean {meant[near[0]]}?" if near else f"conf/{name}.yaml lists every key."
    return f"There is no key {key}: {hint}"


def _keys(node: DictConfig, prefix: str = "") -> set[str]:
    """Every key of a config, dotted."""
    keys = set()
    for key, value in node.items_ex(resolve=False):
        keys.add(f"{prefix}{key}")
        if isinstance(value, DictConfig):
            keys |= _keys(value, f"{prefix}{key}.")
    return keys
