"""Ctrl-C as one line and exit code 130; imports only the standard library, to be ready first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """End the program with one line and exit code 130 when Ctrl-C arrives within the block."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nStopped. The same command continues with what is cached.", file=sys.stderr)
        sys.exit(130)
