"""A terminal shows a note as its message, and a warning after that word."""

from __future__ import annotations

import logging

import pytest

from dreambooth.cli.console_log import ConsoleFormatter


@pytest.mark.parametrize(
    ("level", "shown"),
    [(logging.INFO, "4 of 'a dog'"), (logging.WARNING, "warning: 4 of 'a dog'")],
)
def test_a_line_is_for_a_reader(level, shown):
    record = logging.LogRecord("dreambooth.x", level, "x.py", 1, "%d of %r", (4, "a dog"), None)
    assert ConsoleFormatter().format(record) == shown
