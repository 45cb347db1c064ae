"""Several processes on one machine: all ranks run the same job; rank 0 writes."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
