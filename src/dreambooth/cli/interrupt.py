"""Ctrl-C and SIGTERM as one line and an exit code.

It is ready first, and imports next to nothing: until then Ctrl-C is Python's own traceback. While a
phase trains, `training/safety.py` takes the signals over.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing's own takes as long to import as all the rest
    from collections.abc import Iterator
    from typing import Any

STOPPED = "\nStopped. The same command continues with what is cached."


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def interruptible() -> Iterator[None]:
    """End the program with one line when Ctrl-C or SIGTERM arrives within the block.

    The exit code is 128 + the signal. A pipe whose reader has gone ends it without a word.
    """
    try:
        with _handled({signal.SIGTERM: (signal.SIG_DFL, _terminate)}), _never_swallowed():
            try:
                yield
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt as stop:
        print(STOPPED, file=sys.stderr)
        sys.exit(code_of(stop))
    except BrokenPipeError:
        with suppress(OSError):  # what is left in the buffer has no reader either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + getattr(signal, "SIGPIPE", 13))


@contextmanager
def importing() -> Iterator[None]:
    """As `interruptible`, at once and without cleaning up, for a block that only imports.

    An exception would not arrive: within an import, C++ libraries abort on it and others turn it
    into an error of their own.
    """
    usual = signal.getsignal(signal.SIGTERM)
    expected = usual if usual in (signal.SIG_DFL, _terminate) else signal.SIG_DFL
    with _handled(
        {signal.SIGINT: (signal.default_int_handler, _exit), signal.SIGTERM: (expected, _exit)}
    ):
        yield


def code_of(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a stopped command: 130 after Ctrl-C, 143 after SIGTERM."""
    return 143 if isinstance(stop, Terminated) else 130


@contextmanager
def _handled(handlers: dict[int, tuple[Any, Any]]) -> Iterator[None]:
    """Put handlers in the place of the expected ones; those that anyone else has set stay."""
    ours = []
    with suppress(ValueError):  # which every thread but the first has
        for number, (before, handler) in handlers.items():
            if signal.getsignal(number) is before:
                signal.signal(number, handler)
                ours.append(number)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number][0])


@contextmanager
def _never_swallowed() -> Iterator[None]:
    """End the program where Python would ignore Ctrl-C: it came while an object was removed."""
    before = sys.unraisablehook

    def end(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            return before(unraisable)
        _exit(code_of(unraisable.exc_value) - 128)

    sys.unraisablehook = end
    try:
        yield
    finally:
        sys.unraisablehook = before


def _terminate(*_: object) -> None:
    raise Terminated


def _exit(number: int, *_: object) -> None:
    sys.stdout.flush()
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(128 + number)
