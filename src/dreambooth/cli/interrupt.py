"""Ctrl-C as one line and exit code 130; imports only the standard library, to be ready first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPED = "\nStopped. The same command continues with what is cached."


@contextmanager
def interruptible() -> Iterator[None]:
    """End the program with one line and exit code 130 when Ctrl-C arrives within the block."""
    try:
        yield
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        sys.exit(130)


@contextmanager
def importing() -> Iterator[None]:
    """As `interruptible`, at once and without cleaning up, for a block that only imports.

    An exception would not arrive: within an import, C++ libraries abort on it and others turn it
    into an error of their own.
    """
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, _exit)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(*_: object) -> None:
    sys.stdout.flush()
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(130)
