"""A Weights & Biases run that a thread of its own talks to, so that training never waits for it."""

from __future__ import annotations

import logging
import netrc
import os
import queue
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlparse

log = logging.getLogger(__name__)

FOLDER = "wandb"  # below the run's; W&B itself calls it so
ANSWER = 2.0  # seconds in which a server must answer; else the run is logged offline
INIT = 10.0  # seconds in which an online run must have begun; else it is logged offline
_one_at_a_time = threading.Lock()  # W&B reads where files lie from the environment

Run = Any  # wandb.Run; importing wandb takes half a second
Call = Callable[[Run], None]


@dataclass(frozen=True)
class WandbNames:
    """What W&B calls a run. The same `id` is the same run, in another session too."""

    id: str
    project: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...] = ()


class Session:
    """One session of a W&B run: calls are made in their order, some time after they are given.

    Without a key, or where the server does not answer, the run is logged offline. Every file lies
    in `folder/wandb`, those of tables and artifacts too, unless the user's own environment says
    where (WANDB_DATA_DIR, WANDB_CACHE_DIR).

    Args:
        seconds: for which `close` waits at most.
    """

    def __init__(
        self, folder: Path, names: WandbNames, config: Mapping[str, Any], seconds: float
    ) -> None:
        self.folder, self.names, self.config = folder.absolute(), names, dict(config)
        self.seconds = seconds
        self.place: str | None = None  # where the files are, once the run has begun
        self.url: str | None = None  # of an online run
        self.failed, self.ended = False, threading.Event()
        self.is_left = False  # whether the end was not waited for
        self.calls: queue.SimpleQueue[Call | int] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="wandb", daemon=True).start()

    def send(self, call: Call) -> None:
        """Have `call(run)` made; after the first error none is made any more."""
        if not self.failed:
            self.calls.put(call)

    def close(self, failed: bool = False) -> None:
        """End the session, and say where it is; wait for `seconds` at most."""
        self.calls.put(int(failed))
        self.is_left |= not self.ended.wait(self.seconds)
        if self.failed:
            return
        if self.is_left:
            left = "has not begun" if self.place is None else "has not taken everything"
            where = f"; `wandb sync --include-online {self.place}` sends the rest"
            log.warning(
                "Weights & Biases %s after %.0f s: metrics.csv has every number%s.",
                left,
                self.seconds,
                where if self.place else "",
            )
        elif self.url is not None:
            log.info("Weights & Biases: %s", self.url)
        elif self.place is not None:
            where = self.folder / FOLDER
            log.info("Weights & Biases: offline in %s; send it with: wandb sync %s", where, where)

    def _work(self) -> None:
        """Begin the run, make the calls, finish the run; an error is one warning."""
        with _one_at_a_time, _files_in(self.folder / FOLDER):
            run = None
            try:
                run = self._begin()
                while callable(call := self.calls.get()):
                    call(run)
                run.finish(exit_code=call)
                run = None
            except TimeoutError:  # of finish
                self.is_left, run = True, None
            except Exception as error:  # whatever W&B raises, training is worth more
                self.failed = True
                if not self.is_left:
                    words = " ".join(str(error).split()) or type(error).__name__
                    log.warning("Weights & Biases failed (%s): metrics.csv has everything.", words)
            try:
                if run is not None:
                    run.finish(exit_code=1)
            except Exception:  # it has been reported
                pass
            self.ended.set()

    def _begin(self) -> Run:
        """Begin the run, offline where it cannot be online."""
        os.environ.setdefault("WANDB_SILENT", "true")  # it warns of its own settings before a run
        # W&B's reports on itself make the process wait at its end for a server that is away
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        with _without_launch():
            import wandb

            mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
            if mode != "online":
                return self._init(wandb, mode)
            return self._online(wandb) or self._init(wandb, "offline")

    def _online(self, wandb: Any) -> Run | None:
        """Begin the run online; None after a warning if that cannot be."""
        server, has_tried = wandb.setup().settings.base_url, False
        try:
            _ask(server)
            has_tried = True
            run = self._init(wandb, "online")
            self.url = run.url
            return run
        except Exception as error:
            words = " ".join(str(error).split())[:120]
            log.warning("%s cannot be used (%s): W&B is offline.", server, words)
            if has_tried:
                wandb.teardown()  # else the id would be in use
            return None

    def _init(self, wandb: Any, mode: Any) -> Run:
        names = self.names
        self.folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            id=names.id,
            resume="allow",
            project=names.project,
            name=names.name,
            group=names.group,
            job_type=names.job_type,
            tags=list(names.tags),
            dir=self.folder,
            config=self.config,
            reinit="create_new",  # an earlier run of this process may still be finishing
            settings=wandb.Settings(
                mode=mode,
                init_timeout=INIT,
                # offline, everything is on the disk when a run ends
                finish_timeout=self.seconds if mode == "online" else 0,
                finish_timeout_raises=True,
                console="off",
                silent=True,
            ),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        self.place = run.settings.sync_dir
        return run


def _ask(server: str) -> None:
    """Ask a server what W&B asks first, without logging in.

    Raises:
        OSError: it does not answer.
    """
    head = {"Content-Type": "application/json"}
    query = urllib.request.Request(f"{server}/graphql", b'{"query": "{ __typename }"}', head)
    try:
        urllib.request.urlopen(query, timeout=ANSWER).close()
    except urllib.error.HTTPError:  # an answer too
        return


@contextmanager
def _files_in(folder: Path) -> Iterator[None]:
    """Keep what W&B stages and caches in `folder`, unless the user has chosen a place."""
    ours = {"WANDB_DATA_DIR": folder / "data", "WANDB_CACHE_DIR": folder / "cache"}
    ours = {name: str(path) for name, path in ours.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _without_launch() -> Iterator[None]:
    """Begin a W&B run without importing W&B Launch, which takes longer than all of the rest.

    A run asks it for inputs that a program has staged with it; a program that has imported it.
    """
    name = "wandb.sdk.launch.inputs.internal"
    if "wandb.sdk.launch" in sys.modules:
        yield
        return
    nothing: Any = ModuleType(name)
    nothing.StagedLaunchInputs = lambda: SimpleNamespace(apply=lambda run: None)
    sys.modules[name] = nothing
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def _has_key() -> bool:
    """Tell whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
