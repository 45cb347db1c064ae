"""Faults to provoke: stop a process at a write boundary, fill its disk, slow it down, damage files.

A boundary is a call that makes bytes or names last: fsync, rename, replace or link. Processes are
forks of this one, which has imported the program, so that a command starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CALLS = ("fsync", "replace", "rename", "link")
LONGEST = 300  # seconds of a process, which then counts as crashed
DAMAGES = ("head", "middle", "end", "cut", "empty", "garbage", "deleted", "another", "doubled")
# what a server says to every request, None for nothing; "closed" is a port that nobody listens at
SERVERS: dict[str, bytes | None] = {
    "closed": None,
    "silent": None,
    "breaks off": b"",
    "has an error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "speaks of something else": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
}
AS_IT_SHOULD_BE = "as it should be"
Act = Callable[[int, str], None]


def kill(*_: object) -> None:
    """End this process as the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(*_: object) -> None:
    """Fail as a write on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(filler: Path, left: int) -> None:
    """Fill the disk that `filler` lies on with that file, but for `left` bytes."""
    room = os.statvfs(filler.parent)
    size = room.f_bavail * room.f_frsize - left
    if size > 0 and not filler.exists():
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def at_boundary(number: int, when: str, action: Act = kill) -> None:
    """Do `action` in this process `before` or `after` its boundary of that number, from 0."""

    def act(count: int, moment: str) -> None:
        if (count, moment) == (number, when):
            action(count, moment)

    on_boundaries(act)


def slowly(seed: int, most: float) -> None:
    """Wait up to `most` seconds before and after every boundary of this process."""
    draw = random.Random(seed)
    on_boundaries(lambda *_: time.sleep(draw.uniform(0, most)))


def on_boundaries(act: Act) -> None:
    """Call `act(number, "before" or "after")` at every boundary of this process."""
    count = -1

    def wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
        def boundary(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            number = count
            act(number, "before")
            result = call(*args, **options)
            act(number, "after")
            return result

        return boundary

    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name)))


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and all that it printed."""

    code: int
    printed: str

    @property
    def crashed(self) -> bool:
        """Whether it ended with a traceback, or after too long a time."""
        return "Traceback" in self.printed or self.code in (70, -signal.SIGALRM)


def import_rooms(*names: str) -> None:
    """Import modules of the package, such as `training.job`, so that forks have them in memory."""
    for name in names:
        import_module(f"dreambooth.{name}")


def fork(work: Callable[[], Any], log: Path, seconds: int = LONGEST) -> int:
    """Start `work` in a process of its own, which prints into `log`; return its id."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.alarm(seconds)
        work()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def wait(child: int, log: Path) -> Ended:
    """Wait for a forked process."""
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))


def run(
    script: str,
    arguments: Sequence[str],
    folder: Path,
    arm: Callable[[], None] | None = None,
    log: str = "log.txt",
    seconds: int = LONGEST,
) -> Ended:
    """Run an entry script such as `train.py` in `folder`, after `arm` has prepared its process.

    What it prints goes into `log`, relative to the folder.
    """
    return wait(start(script, arguments, folder, arm, log, seconds), folder / log)


def start(
    script: str,
    arguments: Sequence[str],
    folder: Path,
    arm: Callable[[], None] | None = None,
    log: str = "log.txt",
    seconds: int = LONGEST,
) -> int:
    """As `run`, without waiting; return the process's id."""

    def work() -> None:
        os.chdir(folder)
        if arm is not None:
            arm()
        sys.argv = [str(ROOT / script), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")

    return fork(work, folder / log, seconds)


def can_mount() -> bool:
    """Tell whether a process of its own may mount a file system here, as `on_own_disk` does."""
    child = os.fork()
    if not child:
        os._exit(0 if _own_mounts() else 1)
    return os.waitpid(child, 0)[1] == 0


def on_own_disk(folder: Path, work: Callable[..., str], *arguments: Any) -> str:
    """Call `work(disk, ...)` with a disk of its own, of a gigabyte of memory; return its result.

    Only a child of this process sees that disk, and it is gone with it.
    """
    disk, result = folder / "disk", folder / "result.txt"
    disk.mkdir()

    def mounted() -> None:
        assert _own_mounts()
        options = ["mount", "-t", "tmpfs", "-o", "size=1g", "none", str(disk)]
        subprocess.run(options, check=True)
        result.write_text(work(disk, *arguments))

    log = folder / "own_disk.txt"
    ended = wait(fork(mounted, log, 2 * LONGEST), log)
    return result.read_text() if result.exists() else f"traceback: {ended.printed[-2000:]}"


def _own_mounts() -> bool:
    """Give this process mounts of its own; that needs Linux, and root or user namespaces."""
    user, mounts, ids = 0x10000000, 0x00020000, (os.getuid(), os.getgid())
    library = ctypes.CDLL(None)
    if ids[0] == 0:
        return hasattr(library, "unshare") and library.unshare(mounts) == 0
    if not hasattr(library, "unshare") or library.unshare(user | mounts):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    for name, own in zip(("uid_map", "gid_map"), ids, strict=True):
        Path("/proc/self", name).write_text(f"0 {own} 1")
    return True


@contextmanager
def server_that(kind: str) -> Iterator[str]:
    """Serve as one of the `SERVERS` for the time of the block; yield its address."""
    server = socket.create_server(("127.0.0.1", 0))
    url, held = f"http://127.0.0.1:{server.getsockname()[1]}", []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # the end of the block
                return
            held.append(connection)
            if (answer := SERVERS[kind]) is not None:
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

    if kind == "closed":
        server.close()
    else:
        threading.Thread(target=serve, daemon=True).start()
    try:
        yield url
    finally:
        server.close()


def damage(path: Path, kind: str, another: Path | None = None) -> None:
    """Damage a file in one of the `DAMAGES`: a flipped bit somewhere, less of it, or other bytes.

    Args:
        another: for `another`, a file of the same kind that belongs to something else.
    """
    data = path.read_bytes()
    places = {"head": min(9, len(data) - 1), "middle": len(data) // 2, "end": len(data) - 1}
    path.unlink()  # a second name of the same file stays whole
    if kind in places and data:
        place = places[kind]
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif kind == "doubled":
        path.write_bytes(data + data)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(random.Random(len(data)).randbytes(max(64, len(data) // 2)))
    elif kind == "another" and another is not None:
        path.write_bytes(another.read_bytes())
