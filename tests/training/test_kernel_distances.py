"""Prior damage of a run: the base model's images are drawn before training, and again elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def scores(run: Path) -> dict:
    record = json.loads((run / "evaluation" / "quick" / "metrics.json").read_text())
    return {entry["metric"]: entry["mean"] for entry in record["scores"].values()}


@pytest.mark.thorough
def test_a_run_compares_its_class_images_with_the_base_models(
    spine, encoders_dir, evaluate, tmp_path
):
    own = ("evaluation.metrics=[kernel]", "evaluation.other_classes=[cat,dog]")
    own += ("evaluation.class_images=3", f"evaluation.encoders_dir='{encoders_dir}'")
    run = spine.run(tmp_path / "run", "evaluation=quick", *own, "prior.seed=5", "ppl=false")
    assert scores(run).keys() == {"Kernel distance own class", "Kernel distance other classes"}
    assert all(value != 0 for value in scores(run).values())
    files = {path.name for path in (run / "evaluation" / "quick").glob("other_*.png")}
    assert files == {f"other_a-cat_seed{1000000 + i}.png" for i in range(3)}
    record = json.loads((run / "run.json").read_text())
    assert record["costs"]["stages"]["base_images"]["bytes"] > 0
    again = Path(shutil.copytree(run, tmp_path / "again"))
    evaluate(f"run='{again}'", *own, f"cache_dir='{tmp_path / 'cache'}'")  # without these images
    assert scores(again) == pytest.approx(scores(run), abs=1e-6)
