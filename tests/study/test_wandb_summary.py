"""A study in W&B: a run of its own in the group of its runs, with tables, figures and page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dreambooth.study import tables
from dreambooth.study.tables import ReportSpec, report
from dreambooth.training.logs.wandb_run import NOTE, known_as
from dreambooth.training.logs.wandb_session import WandbNames
from run_records import write_run
from wandb_file import OfflineRun


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """Two scored runs of one group, a figure and a page."""
    for name in ("API_KEY", "MODE", "DATA_DIR", "CACHE_DIR", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    folder = tmp_path / "study"
    for name, score in (("a", 0.5), ("b", 0.75)):
        write_run(folder, name, score)
        names = WandbNames("", "mine", name, "ppl 2026-11-30", "train")
        known_as(folder / name, NOTE, names, 5.0)
        (folder / name / "samples").mkdir(exist_ok=True)
        colour = (round(255 * score), 0, 0)
        Image.new("RGB", (8, 8), colour).save(folder / name / "samples" / "final.png")

    def write_looks(*_) -> list[str]:
        (folder / "figures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "figures" / "pareto.png")
        (folder / "report.html").write_text("<html><body>page</body></html>")
        return []

    monkeypatch.setattr(tables, "write_looks", write_looks)
    return folder


def test_a_report_logs_the_study_to_the_group_of_its_runs(study):
    spec = ReportSpec(study, None, False, "cpu", None, "cache", True)
    assert report(spec) == report(spec) == 0
    offline = OfflineRun(study)
    runs = offline.of("run")
    assert len(runs) == 2 and len({run.run_id for run in runs}) == 1  # the second goes on
    record = runs[0]
    assert (record.project, record.run_group) == ("mine", "ppl 2026-11-30")
    assert (record.job_type, record.display_name) == ("report", "ppl 2026-11-30 summary")
    shown = offline.summary
    assert (
        shown["figures/pareto"]["_type"] == "image-file" and shown["page"]["_type"] == "html-file"
    )
    assert shown["table/runs"]["nrows"] == 2 and shown["table/settings"]["nrows"] >= 1
    (path,) = offline.files[0].parent.glob("files/media/table/table/runs_*.table.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["run"] for row in rows] == ["a", "b"]
    assert [row["dino"] for row in rows] == [0.5, 0.75] and rows[0]["seconds"] > 0
    tables = [artifact for artifact in offline.of("artifact") if artifact.type == "run_table"]
    files = {entry.path for table in tables for entry in table.manifest.contents}
    assert len([file for file in files if file.endswith("final.png")]) == 2  # a picture of each run
