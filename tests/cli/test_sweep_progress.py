"""A line after each run of a sweep."""

from __future__ import annotations

import json
import os
from datetime import datetime

from dreambooth.cli.sweep_progress import progress_line
from dreambooth.study.sweeps import SweepPlan, record_failure

START = 1_700_000_000.0


def test_a_line_says_how_many_have_ended_and_when_the_others_will(tmp_path):
    assert progress_line(tmp_path, START, START) is None
    folders = [str(number) for number in range(6)]
    SweepPlan([], [], [{"overrides": [], "folder": name} for name in folders]).write(tmp_path)
    for number, finished in enumerate((True, True, False)):
        path = tmp_path / str(number) / "run.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"finished": finished}))
        os.utime(path, (START - 50 + 60 * number, START - 50 + 60 * number))  # the first: earlier
    record_failure(tmp_path / "3", "no memory", started=True)
    line = progress_line(tmp_path, START, START + 40)
    until = datetime.fromtimestamp(START + 40 + 60).strftime("%H:%M")
    assert line == f"3 of 6 runs have ended; the others take about 0:01:00, until {until}.\n"
    for number in (2, 4, 5):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        (tmp_path / str(number) / "run.json").write_text('{"finished": true}')
    assert progress_line(tmp_path, START, START + 99) == "6 of 6 runs have ended.\n"
