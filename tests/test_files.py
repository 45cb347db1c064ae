"""Files that are whole or absent, hashes that change with what they name, one job at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from dreambooth.errors import UserError
from dreambooth.files import (
    atomic,
    atomic_files,
    bytes_of,
    cache_key,
    file_hash,
    folder_hash,
    read_csv,
    write_csv,
    write_json,
)
from dreambooth.locks import locked


def test_a_key_depends_on_every_fact_and_not_on_their_order():
    base = {"model": "m", "steps": 20, "options": {"a": 1, "b": 2.5}, "seed": 0}
    assert cache_key(**base) == cache_key(**dict(reversed(base.items())))
    others = [{**base, "seed": 1}, {**base, "seed": None}, {**base, "options": {"a": 1}}]
    others += [{**base, "model": "ü"}, {**base, "more": None}]
    keys = {cache_key(**facts) for facts in [base, *others]}
    assert len(keys) == 6 and all(len(key) == 16 for key in keys)


def test_a_file_hash_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_folder_hash_depends_on_names_and_bytes_alone(tmp_path):
    def folder(name: str, files: dict[str, str]) -> Path:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return tmp_path / name

    files = {"a/weights.bin": "1", "b.txt": "2"}
    first, again = folder("1", files), folder("2", dict(reversed(files.items())))
    assert folder_hash(first) == folder_hash(again) and len(folder_hash(first)) == 16
    others = [{**files, "b.txt": "3"}, {"a/weights.bin": "1"}, {"a/weights.bin": "1", "c.txt": "2"}]
    hashes = {folder_hash(folder(f"other{i}", other)) for i, other in enumerate(others)}
    assert len(hashes | {folder_hash(first)}) == 4
    assert folder_hash(first, first.rglob("*.bin")) == folder_hash(tmp_path / "other1")


def test_many_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_files(tmp_path) as temporary:
        (temporary / "a").write_text("half")
        raise ZeroDivisionError
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a": "old"}
    done, replace, flush = [], os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *pair: (done.append("rename"), replace(*pair)))
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("flush"), flush(file)))
    with atomic_files(tmp_path) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text("new")
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"a": "new", "b": "new"}
    assert done == [*["flush"] * 3, "rename", "rename", "flush"]  # bytes first, then the names


def test_bytes_of_files_and_folders(tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name, size in (("one", 5), ("folder/two", 7), ("folder/deep/three", 11)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert bytes_of([]) == 0 and bytes_of([tmp_path / "one"]) == 5
    assert bytes_of([tmp_path / "one", tmp_path / "folder"]) == 23


def test_a_table_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "table.csv"
    rows = [{"a": 1, "b": 'x,"y"\nü'}, {"a": None, "c": 0.1, "b": ""}]
    write_csv(path, rows)
    text = 'a,b,c\r\n1,"x,""y""\nü",\r\n,,0.1\r\n'
    assert path.read_bytes().decode() == text
    assert read_csv(path) == [
        {"a": "1", "b": 'x,"y"\nü', "c": ""},
        {"a": "", "b": "", "c": "0.1"},
    ]
    write_csv(path, rows, ["c", "a"])  # these columns alone, in this order
    assert path.read_bytes() == b"c,a\r\n,1\r\n0.1,\r\n"
    assert os.listdir(path.parent) == ["table.csv"]


@pytest.mark.parametrize(
    "data", [None, b"\xff\xfe\x00", b'"' + b"x" * 200_000 + b'"', b"a,b\n1,2,3\n"]
)
def test_what_is_no_table_is_named(tmp_path, data):
    if data is not None:
        (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.csv cannot be read as a table"):
        read_csv(tmp_path / "x.csv")


def test_the_target_changes_only_at_the_end_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "deep" / "x.txt"
    with atomic(target) as temporary:
        temporary.write_text("first")
        assert not target.exists()
        assert temporary.stat().st_dev == target.parent.stat().st_dev
    with atomic(target) as temporary:
        temporary.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert os.listdir(target.parent) == ["x.txt"]


def test_a_folder_replaces_a_folder(tmp_path):
    for text in ("first", "second"):
        with atomic(tmp_path / "model") as temporary:
            (temporary / "unet").mkdir(parents=True)
            (temporary / "unet" / text).write_text(text)
    assert [p.name for p in (tmp_path / "model").rglob("*")] == ["unet", "second"]
    assert os.listdir(tmp_path) == ["model"]


def test_an_error_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "x.json", {"whole": True})
    with pytest.raises(KeyError), atomic(tmp_path / "x.json") as temporary:
        temporary.write_text("half")
        raise KeyError("interrupted")
    assert json.loads((tmp_path / "x.json").read_text()) == {"whole": True}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_failing_rename_leaves_what_was_there(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", 1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(OSError, match="x"):
        write_json(tmp_path / "x.json", 2)
    assert (tmp_path / "x.json").read_text() == "1\n"
    assert os.listdir(tmp_path) == ["x.json"]


def _wrapped():
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904, as torch.save does


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        _wrapped,
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path, error):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(UserError, match=f"disk that holds {tmp_path} is full: free some room"):
        with atomic(tmp_path / "x.json") as temporary:
            temporary.write_text("half")
            if not isinstance(error, Exception):
                error()
            raise error
    assert (tmp_path / "x.json").read_text() == "1\n"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("at", ["tempfile.mkdtemp", "pathlib.Path.mkdir"])
def test_a_disk_that_is_full_before_anything_is_written(tmp_path, monkeypatch, at):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(at, fail)
    with pytest.raises(UserError, match=f"disk that holds {tmp_path} is full"):
        write_json(tmp_path / "x.json", 1)
    if at == "pathlib.Path.mkdir":
        with pytest.raises(UserError, match="is full"), locked(tmp_path / "x"):
            pass
    assert os.listdir(tmp_path) == []


def _count_up(path: Path, times: int) -> None:
    for _ in range(times):
        with locked(path):
            write_json(path, json.loads(path.read_text()) + 1)


def test_a_lock_lets_one_process_in(tmp_path):
    write_json(tmp_path / "n", 0)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_count_up, args=(tmp_path / "n", 25)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert json.loads((tmp_path / "n").read_text()) == 75
