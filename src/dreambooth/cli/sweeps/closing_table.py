"""The table at the end of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from dreambooth.scratch import find_files
from dreambooth.study.finished.sweeps import find_unfinished


class ClosingTable(Callback):
    """Hydra callback: print the tables of all runs of a sweep, and write them into its folder."""

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Print and write them, also the runs that did not finish, if any run did."""
        folder = Path(config.hydra.sweep.dir)
        if not config.dry_run and find_files(folder, "run.json"):
            from dreambooth.study.tables import print_tables  # imports torch

            print_tables(folder, unfinished=find_unfinished(folder))
