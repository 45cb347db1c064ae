"""The process in which exports are loaded back: started early, kept for further runs, ended."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth.training.exports import consumer

TIMEOUT = 1800.0  # seconds of a program; loading from a slow disk


class FreshProcessError(Exception):
    """The process could not do a program; its text completes "it cannot be loaded (...)"."""


@dataclass(frozen=True)
class Loaded:
    """What a program drew, and hashes of what its networks hold, as `consumer.held` lists them."""

    image: Image.Image
    held: dict[str, list[str]]


class Fork:
    """A fork of this process that does jobs; it has what is used of a `subprocess.Popen`."""

    def __init__(self) -> None:
        jobs, own_jobs = os.pipe()
        own_replies, replies = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(own_jobs)
            os.close(own_replies)
            consumer.serve_forked(jobs, replies)
        os.close(jobs)
        os.close(replies)
        self.stdin, self.stdout = open(own_jobs, "w"), open(own_replies)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, a negative one for a signal; None while it runs."""
        return self._code if self._code is not None else self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end, and return the exit code."""
        code = self._code if self._code is not None else self._wait(0)
        assert code is not None
        return code

    def _wait(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, options)
        self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


class FreshProcess:
    """Runs programs in processes that hold nothing of a run, and end with their program."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[str] | Fork | None = None
        self._errors: Any = None

    def fork(self) -> None:
        """Fork the process from this one, unless it runs: its libraries need no second import.

        For a command that has imported them and has computed nothing yet: a fork has none of the
        threads that compute, nor CUDA. Other systems than Linux have it started by `run`.
        """
        if sys.platform == "linux" and self._process is None:
            self._process, self._errors = Fork(), tempfile.TemporaryFile("w+")

    def start(self, pipeline: str) -> None:
        """Start the process unless it runs; it imports the class `pipeline` of diffusers meanwhile.

        If it cannot start, `run` says so.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-P", consumer.__file__, pipeline],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # so that what it forks is ended with it
        )

    def run(self, program: str, pipeline: str) -> Loaded:
        """Run a program that ends in saving its picture.

        Raises:
            FreshProcessError: it failed, was killed or took too long.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / consumer.PROGRAM).write_text(program, "utf-8")
            try:
                self.start(pipeline)
                code = self._do(folder)
            except OSError as error:
                self.close()
                raise FreshProcessError(f"no process can be started: {error}") from error
            except BaseException:  # an interrupt, too, leaves no process behind
                self.close()
                raise
            if code:
                raise FreshProcessError(_ended(code))
            result = json.loads((folder / consumer.RESULT).read_text("utf-8"))
            if (error := result.pop("error")) is not None:
                raise FreshProcessError(error)
            with Image.open(folder / consumer.PICTURE) as image:
                return Loaded(image.copy(), result)

    def close(self) -> None:
        """End the process, and a program that it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for file in (process.stdin, process.stdout, self._errors):
            with suppress(OSError):  # what could not be written to it
                if file is not None:
                    file.close()

    def _do(self, folder: Path) -> int:
        """Have a job done; return the exit code of its process."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise FreshProcessError(self._last_words()) from None
        ready, _, _ = select.select([process.stdout], [], [], self.timeout)
        if not ready:
            raise FreshProcessError(f"it took more than {self.timeout:.0f} seconds")
        reply = process.stdout.readline()
        if not reply:
            raise FreshProcessError(self._last_words())
        return int(reply)

    def _last_words(self) -> str:
        """Say how the process ended that should have run the program."""
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1][:160].rstrip(". ") if code > 0 and lines else _ended(code)


def _ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    why = ", as where the memory is full" if code == -signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-code).name}{why}"


@cache
def fresh_process() -> FreshProcess:
    """Return the one of this process, which ends with it; runs of a sweep share its imports."""
    process = FreshProcess()
    atexit.register(process.close)
    return process
