"""The dataset is downloaded once, whole, and as its manifest says."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dreambooth import files as cache
from dreambooth.data import dataset
from dreambooth.data.dataset import fetch_dataset
from dreambooth.errors import UserError

PHOTOS = {
    "dog/00.jpg": b"one photo",
    "dog/01.jpg": b"another",
    "cat/00.jpg": b"a cat's",
    "references_and_licenses.txt": b"who made them",
}


def test_manifest_agrees_with_a_copy_of_the_dataset() -> None:
    root = os.environ.get("DREAMBOOTH_PHOTOS")
    if not root or not (Path(root) / "dog").is_dir():
        pytest.skip("DREAMBOOTH_PHOTOS names no copy of the dataset")
    entries = [e for e in dataset._manifest()["files"] if dataset._subject(e) == "dog"]
    assert len(entries) == 5
    assert dataset._missing(Path(root), entries) == []


class Server:
    """A host of a small dataset that counts what is asked of it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked = files, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                data = outer.files.get(self.path)
                self.send_response(200 if data is not None else 404)
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    files = [
        {"path": f"dataset/{p}", "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
        for p, d in PHOTOS.items()
    ]
    manifest = {"repository": "a/b", "commit": "c0ffee", "files": files}
    monkeypatch.setattr(dataset, "_manifest", lambda: json.loads(json.dumps(manifest)))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    host = Server({f"/a/b/c0ffee/dataset/{p}": d for p, d in PHOTOS.items()})
    yield host
    host.http.shutdown()
    host.http.server_close()


def held(root: Path) -> dict[str, bytes]:
    paths = [p for p in root.rglob("*") if p.is_file() and p.name != ".fetch.lock"]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}


def test_fetch_brings_everything_once(server: Server, tmp_path: Path) -> None:
    assert fetch_dataset(tmp_path / "d", base_url=server.url) == tmp_path / "d"
    assert held(tmp_path / "d") == PHOTOS
    assert len(server.asked) == 4
    fetch_dataset(tmp_path / "d", base_url=server.url)
    assert len(server.asked) == 4


def test_fetch_of_one_subject_brings_its_photos_and_the_attribution(
    server: Server, tmp_path: Path
) -> None:
    fetch_dataset(tmp_path, ["dog"], server.url)
    assert set(held(tmp_path)) == set(PHOTOS) - {"cat/00.jpg"}
    fetch_dataset(tmp_path, ["cat"], server.url)
    assert held(tmp_path) == PHOTOS
    assert len(server.asked) == 4


def test_fetch_replaces_a_damaged_file_alone(server: Server, tmp_path: Path) -> None:
    fetch_dataset(tmp_path, base_url=server.url)
    (tmp_path / "dog" / "00.jpg").write_bytes(b"one phot?")  # of the same size
    fetch_dataset(tmp_path, base_url=server.url)
    assert held(tmp_path) == PHOTOS
    assert server.asked[4:] == ["/a/b/c0ffee/dataset/dog/00.jpg"]


def test_parallel_runs_fetch_each_file_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch_dataset(tmp_path, base_url=server.url), range(4)))
    assert held(tmp_path) == PHOTOS
    assert len(server.asked) == 4


@pytest.mark.parametrize("wrong", [b"one phot?", b"", b"one photo and more"])
def test_another_content_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, wrong: bytes
) -> None:
    server.files["/a/b/c0ffee/dataset/dog/00.jpg"] = wrong
    with pytest.raises(UserError, match="dog/00.jpg has SHA-256 .* photos.root=DIR"):
        fetch_dataset(tmp_path, ["dog"], server.url)
    assert "dog/00.jpg" not in held(tmp_path)
    assert not [path for path in held(tmp_path) if path.endswith(".part")]


def test_a_file_that_is_gone_names_its_address(server: Server, tmp_path: Path) -> None:
    del server.files["/a/b/c0ffee/dataset/cat/00.jpg"]
    with pytest.raises(UserError, match="cat/00.jpg .*404.*photos.root=DIR"):
        fetch_dataset(tmp_path, ["cat"], server.url)


def test_no_network_names_the_fix(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match="cannot download .* photos.root=DIR .* DREAMBOOTH_PHOTOS"):
        fetch_dataset(tmp_path, ["dog"], server.url)
    assert held(tmp_path) == {}


def test_full_disk_leaves_no_partial_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(UserError, match="is full"):
        fetch_dataset(tmp_path, ["dog"], server.url)
    assert held(tmp_path) == {}


def test_fetch_of_an_unknown_subject_asks_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'dog'"):
        fetch_dataset(tmp_path, ["dgo"], server.url)
    assert server.asked == []
