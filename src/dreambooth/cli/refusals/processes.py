"""Several processes of one run: each must compose the same job in the same folder."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig

from dreambooth.quoting import quoted

STARTED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def end_with_parent() -> None:
    """End this process soon after the one that started it, if it is another rank of a run.

    A killed first process cannot end the others, and they would wait for it for ever.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0" or os.name == "nt":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def same_job(output_dir: str) -> Iterator[None]:
    """Make Lightning start its other processes on this job alone, in this job's folder.

    Lightning repeats the command line, which in a sweep is the whole sweep, and Hydra names a
    folder by the second in which a process starts. Afterwards the processes are forgotten, so that
    the next job of a sweep starts its own.
    """
    ours = not any(name in os.environ for name in STARTED) and HydraConfig.initialized()
    argv, hydra = sys.argv, HydraConfig.instance()
    composed: Any = hydra.cfg
    if ours:
        folder = quoted(output_dir)
        sys.argv = [
            argv[0],
            *(flag for flag in argv[1:] if flag.startswith("--config-")),
            *composed.hydra.overrides.task,
            f"output_dir={folder}",
            f"hydra.run.dir={folder}",
            "hydra.mode=RUN",
            "hydra/launcher=basic",
            "hydra.output_subdir=null",
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
        ]
        hydra.cfg = None  # Lightning then repeats sys.argv as it is
    try:
        yield
    finally:
        if ours:
            sys.argv, hydra.cfg = argv, composed
            for name in STARTED:
                os.environ.pop(name, None)
            import torch

            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
