"""How a log line looks on the terminal: the message alone, and a warning after that word."""

from __future__ import annotations

import logging


class ConsoleFormatter(logging.Formatter):
    """Write a record for a reader; the log file has its time and module too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, after its level in small letters if it is a warning or worse."""
        text = super().format(record)
        is_plain = record.levelno < logging.WARNING
        return text if is_plain else f"{record.levelname.lower()}: {text}"
