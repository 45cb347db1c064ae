"""A record or a table that has changed since it was written is refused by name."""

from __future__ import annotations

import json

import pytest

from dreambooth.errors import UserError
from dreambooth.files import write_csv
from dreambooth.records import OWN, TABLES, amend_record, read_record, read_table, write_record

RECORD = {"finished": True, "lr": 1e-6, "prompts": ("a dog",), "rows": {"0": [1.5, None]}, "é": 1}


@pytest.fixture
def path(tmp_path):
    write_csv(tmp_path / "scores.csv", [{"dino": 0.5}])
    write_record(tmp_path / "run.json", RECORD, ["scores.csv", "curve.csv"])
    return tmp_path / "run.json"


def test_a_record_comes_back(path):
    record = read_record(path)
    assert list(record.pop(TABLES)) == ["scores.csv"]
    assert record == {**RECORD, "prompts": ["a dog"]}
    write_record(path, {**read_record(path), OWN: "of an earlier writing"})
    assert read_record(path)[TABLES] == {}


def test_a_digit_that_changed_is_found(path):
    text = path.read_text()
    path.write_text(text.replace("1e-06", "2e-06"))
    with pytest.raises(UserError, match="run.json has changed since it was written"):
        read_record(path)
    path.write_text(json.dumps(json.loads(text)))  # other spaces, the same record
    assert read_record(path)["lr"] == 1e-6


def test_without_its_hash_a_record_is_what_it_says(path):
    changed = {**json.loads(path.read_text()), "lr": 1}
    changed.pop(OWN)
    path.write_text(json.dumps(changed))
    assert read_record(path)["lr"] == 1


@pytest.mark.parametrize("damage", ["dino\n0.6\n", "", None])
def test_a_table_that_changed_is_found(path, damage):
    table, record = path.parent / "scores.csv", read_record(path)
    assert read_table(table, record, "") == [{"dino": "0.5"}]
    table.unlink()
    if damage is not None:
        table.write_text(damage)
    with pytest.raises(UserError, match="scores.csv has changed .*: score it again"):
        read_table(table, record, "score it again")
    assert read_table(table, {}, "") == ([{"dino": "0.6"}] if damage else [])


def test_a_run_that_goes_on_forgets_the_hashes_of_its_tables(path):
    table = path.parent / "scores.csv"
    amend_record(path)
    table.write_text("dino\n0.7\n")
    assert read_table(table, read_record(path), "") == [{"dino": "0.7"}]
    assert read_table(table, {TABLES: [1]}, "") == [{"dino": "0.7"}]  # a damaged record
    amend_record(path.parent / "no.json")
