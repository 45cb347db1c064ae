"""Which records are kept, and what a row of the table says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import methods
import methods_page
import pytest

from dreambooth.cli.configuration.configs import CONF
from dreambooth.errors import UserError
from dreambooth.files import write_json

METRICS = (*methods_page.SHARES, *methods_page.SCORES)
COSTS = {
    "steps": 200,
    "seconds": 41.6,
    "cpu_seconds": 60.4,
    "memory": 1.1,
    "trained": 69888,
    "file": 0.3,
}


def record(subject: str, value: float) -> dict:
    own = {"subject": subject, "method": "LoRA", "class_noun": "dog", "key": "k"}
    return {**own, **dict.fromkeys(METRICS, value), **COSTS}


def test_a_row_is_the_mean_over_subjects():
    values = {"dog": 0.5, "cat": 1.0, "vase": 0.5, "clock": 1.0}
    rows = methods_page.table([record(s, v) for s, v in values.items()], ["full", "LoRA"])
    assert len(rows) == 3  # a head, a rule, and the one method that has records
    cells = rows[2].strip("| ").split(" | ")
    assert cells[:4] == ["LoRA", "4", "75 (50 to 100)", "75 (50 to 100)"]
    assert cells[4] == "0.75 (0.50 to 1.00)"
    assert cells[-6:] == ["200", "42", "60", "1.10", "69,888", "0.30"]


def test_differences_are_over_the_subjects_that_both_methods_have():
    full = [{**record(subject, 0.25), "method": "full"} for subject in ("a", "b", "c", "d")]
    values = {"a": 0.5, "b": 1.0, "c": 0.5, "d": 1.0, "dog": 0.0}
    lora = [record(subject, value) for subject, value in values.items()]
    rows = methods_page.differences([*full, *lora], ["full", "LoRA", "OFT"], "full")
    assert len(rows) == 3
    cells = rows[2].strip("| ").split(" | ")
    assert cells[:3] == ["LoRA", "4", "**50 (25 to 75)**"] and cells[4] == "**0.50 (0.25 to 0.75)**"
    few = methods_page.differences([*full[:2], *lora], ["full", "LoRA"], "full")[2]
    assert few.startswith("| LoRA | 2 | 50 | 50 | 0.50 |")  # no interval over two


def test_a_record_is_kept_for_the_same_settings_alone(tmp_path):
    job = methods.Job(tmp_path, "dog", "LoRA", ("max_steps=3",), 8)
    key = job.key("weights")
    job.place.mkdir(parents=True)
    write_json(job.place / "record.json", {"key": key})
    assert job.record(key) == {"key": key}
    others = [
        methods.Job(tmp_path, "dog", "LoRA", ("max_steps=4",), 8).key("weights"),
        methods.Job(tmp_path, "dog", "LoRA", ("max_steps=3",), 12).key("weights"),
        job.key("other weights"),
    ]
    assert len({key, *others}) == 4 and all(job.record(other) is None for other in others)


def test_every_method_names_one_that_exists():
    names = {o.partition("=")[2] for each in methods.METHODS.values() for o in each[:1]}
    assert all((CONF / "method" / f"{name}.yaml").is_file() for name in names)
    assert names >= {"full", "lora", "dora", "lokr", "textual_inversion", "custom_diffusion"}


def test_an_unknown_method_is_refused(tmp_path):
    args = SimpleNamespace(images=8, root=Path(tmp_path), methods="LoRA;LoRAA", subjects="dog")
    with pytest.raises(UserError, match="there is no method LoRAA: choose full"):
        methods.run(args)
