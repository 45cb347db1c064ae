"""Run a command: compose its configuration, word errors in one sentence, set the exit code.

Imports nothing heavy, so that a wrong command line is refused at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers them
from dreambooth.cli.configuration.configs import CONF, search_folders
from dreambooth.cli.drawing.axes import quote_axes
from dreambooth.cli.interrupt import interruptible
from dreambooth.cli.refusals.checks import check_added, refuse_missing
from dreambooth.cli.refusals.error_sentences import composition_error, sentence
from dreambooth.cli.refusals.processes import end_with_parent
from dreambooth.cli.sweeps.jobs import JobFailed, hand_over
from dreambooth.cli.sweeps.resume_sweep import with_sweep
from dreambooth.cli.sweeps.sweep_lines import Place
from dreambooth.errors import UserError
from dreambooth.quoting import printable, quote_paths, require_utf8

# how long an idle OpenMP thread spins before it sleeps; benchmarks/threads.py chose it
SPIN_COUNT = "10000"


def entry(command: str, run: Callable[[DictConfig], int | float | None]) -> None:
    """Compose `conf/<command>.yaml` with the command line and run it; exit with 2 on an error.

    `run` returns an exit code (int; None for 0) or an objective (float), which a Hydra sweeper
    receives. In a sweep the other runs go on when one fails.
    """

    @hydra.main(config_path=str(CONF), config_name=command, version_base="1.3")
    def main(cfg: DictConfig) -> float | None:
        return run_job(run, cfg)

    folders = [CONF]
    with interruptible():
        prepare_environment()
        _silence_libraries()
        end_with_parent()
        try:
            parsed = parse(sys.argv[1:])
            parsed.overrides = quote_paths(parsed.overrides)
            _refuse_paths_of_other_encodings(parsed)
            if command == "train":
                parsed = without_traces(with_sweep(parsed))
            parsed.overrides = quote_axes(parsed.overrides)
            sys.argv[1:] = flags_first(parsed)
            folders = search_folders(parsed.config_dir, parsed.overrides)
            check_added(command, parsed.overrides, folders)
            main()
        except JobFailed:  # its text has been printed
            sys.exit(2)
        except Exception as error:
            text = composition_error(command, error, folders) or sentence(error)
            if text is None:
                raise
            say(text)
            sys.exit(2)


def _refuse_paths_of_other_encodings(parsed: Namespace) -> None:
    """Refuse what names a path and is not UTF-8, which would fail wherever it is written down."""
    for text in [*parsed.overrides, *(v for v in vars(parsed).values() if isinstance(v, str))]:
        require_utf8("the path in", text)
    require_utf8("the current folder", os.getcwd())
    for name, value in os.environ.items():
        if name.startswith("DREAMBOOTH_"):
            require_utf8("the path in", f"{name}={value}")


def _silence_libraries() -> None:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of unused kernels


def run_job(run: Callable[[DictConfig], int | float | None], cfg: DictConfig) -> float | None:
    """Run one job and return its objective; exit where it returns an exit code other than 0.

    Raises:
        JobFailed: after printing the error, so that every launcher reports the job as failed.
    """
    _silence_libraries()  # a launcher may have started another process
    details = None
    try:
        refuse_unused_launcher()
        refuse_missing(cfg)
        result = run(cfg)
    except Exception as error:
        text = sentence(error)
        if text is not None:
            place = Place.current()
            say(
                text
                if place is None
                else f"{text} (run {place.number}/{place.total}: {place.name})"
            )
        elif HydraConfig.get().mode == RunMode.MULTIRUN:
            details = traceback.format_exc()
            print(details, file=sys.stderr, flush=True)
            text = f"{type(error).__name__}: {error}"
        else:
            raise
    else:
        if result and not isinstance(result, float):
            hand_over(result)
            sys.exit(result)
        return result if isinstance(result, float) else None
    raise JobFailed(text, details)  # outside `except`: the traceback would keep the model in memory


def refuse_unused_launcher() -> None:
    """Refuse a launcher where Hydra launches nothing, and would run the job here.

    Raises:
        UserError: the command is no sweep.
    """
    if not HydraConfig.initialized():
        return
    chosen = HydraConfig.get()
    if chosen.mode == RunMode.RUN and "basic_launcher" not in chosen.launcher._target_:
        raise UserError("hydra/launcher launches sweeps: add -m, for a single run too.")


def prepare_environment() -> None:
    """Set what libraries read when they are first imported; a user's own settings stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra's own errors arrive here, to be worded


def parse(arguments: Sequence[str]) -> Namespace:
    """Read Hydra's flags and the overrides, in any order.

    Raises:
        UserError: an unknown flag, one without its value, or two that ask for different things.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(
            f"The command line cannot be read: {message}; --hydra-help lists the flags."
        )

    parser.error = refuse
    parsed = parser.parse_intermixed_args(arguments)
    asked = {
        "--run": parsed.run,
        "-m": parsed.multirun,
        "--cfg": parsed.cfg,
        "--info": parsed.info,
        "--shell-completion": parsed.shell_completion,
    }
    flags = [flag for flag, value in asked.items() if value]
    if len(flags) > 1:
        raise UserError(f"{' and '.join(flags)} do not go together: leave one out.")
    return parsed


def without_traces(parsed: Namespace) -> Namespace:
    """Keep Hydra from writing files if the command line asks for a dry run."""
    pairs = [override.lstrip("+").partition("=")[::2] for override in parsed.overrides]
    if dict(pairs).get("dry_run", "false").lower() == "false":
        return parsed
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none"]
    return Namespace(**{**vars(parsed), "overrides": [*parsed.overrides, *quiet]})


def flags_first(parsed: Namespace) -> list[str]:
    """Write parsed arguments with the flags before the overrides, the only order Hydra reads."""
    flags = []
    for name, value in vars(parsed).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif isinstance(value, str):
            flags.append(f"{flag}={value}")
    return [*flags, *parsed.overrides]


def say(text: str) -> None:
    """Print an error once, in the first process of a distributed run."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {printable(text)}", file=sys.stderr, flush=True)
