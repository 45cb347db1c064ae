"""What surrounds an attacked run: a disk that fills up, and W&B servers that are away."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults import LONGEST, fork, wait

# what a server says to every request, None for nothing; "closed" is a port that nobody listens at
SERVERS: dict[str, bytes | None] = {
    "closed": None,
    "silent": None,
    "breaks off": b"",
    "has an error": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "speaks of something else": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
}


def fill(filler: Path, left: int) -> None:
    """Fill the disk that `filler` lies on with that file, but for `left` bytes."""
    room = os.statvfs(filler.parent)
    size = room.f_bavail * room.f_frsize - left
    if size > 0 and not filler.exists():
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


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
