"""Costs of a run's stages and sessions: seconds add up, the highest peak stays."""

from __future__ import annotations

import json

import pytest

from dreambooth.training.logs import costs as costs_module
from dreambooth.training.logs.costs import STOPPED, Costs


@pytest.fixture
def machine(monkeypatch):
    """A clock and a peak that the test sets."""

    class Machine:
        seconds, peak = 100.0, 1.0

    machine = Machine()
    monkeypatch.setattr(costs_module.time, "monotonic", lambda: machine.seconds)
    monkeypatch.setattr(costs_module, "peak_memory_gib", lambda: machine.peak)

    def reset() -> None:
        machine.peak = 0.5

    monkeypatch.setattr(costs_module, "reset_peak_memory", reset)
    return machine


def test_a_stage_has_its_own_seconds_peak_and_bytes(machine, tmp_path):
    costs = Costs()
    with costs.stage("first") as places:
        machine.seconds, machine.peak = 102.5, 3.0
        (tmp_path / "a").write_bytes(b"12345")
        places.append(tmp_path)
    with costs.stage("second"):
        machine.seconds = 103.0
    machine.seconds = 110.0
    assert costs.record == {
        "seconds": 10.0,
        "peak_memory_gib": 3.0,
        "stages": {
            "first": {"seconds": 2.5, "peak_memory_gib": 3.0, "bytes": 5},
            "second": {"seconds": 0.5, "peak_memory_gib": 0.5, "bytes": 0},
        },
    }


@pytest.mark.parametrize("ended", ["stopped", "finished", "both"])
def test_a_resumed_run_adds_to_its_earlier_costs(machine, tmp_path, ended):
    stages = {"training": {"seconds": 4.0, "peak_memory_gib": 2.0, "bytes": 1}}
    earlier = {"seconds": 20.0, "peak_memory_gib": 2.0, "stages": stages}
    if ended != "stopped":
        (tmp_path / "run.json").write_text(json.dumps({"costs": earlier}))
    if ended != "finished":  # stopped after it had been finished: that is the newer one
        newer = {**earlier, "seconds": 30.0}
        (tmp_path / STOPPED).write_text(json.dumps(newer))
    costs = Costs.resumed(tmp_path)
    with costs.stage("training"):
        machine.seconds += 3
        machine.peak = 1.5
    assert costs.stages["training"] == {"seconds": 7.0, "peak_memory_gib": 2.0, "bytes": 0}
    assert costs.record["seconds"] == (23.0 if ended == "finished" else 33.0)


def test_a_new_run_costs_nothing_yet(machine, tmp_path):
    assert Costs.resumed(tmp_path).record["seconds"] == 0
