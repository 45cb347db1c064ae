"""Two processes of `dreambooth train` give the weights of one process on the joint batch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spine import Spine, checkpoint, environment

# with a small eps Adam would divide a gradient that is rounding alone by itself
STEPS = ("optimizer.eps=1e-3", "max_steps=3", "accumulate=2", "lr=1e-3", "samples.every_n_steps=2")
STEPS += ("model.recommended.textual_inversion.max_steps=2",)
METHODS = ("full", "ti_then_full")
pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture(scope="module")
def sweep(spine: Spine, tmp_path_factory) -> Path:
    """A sweep of two runs, each on two CPU processes, from the console command."""
    out = tmp_path_factory.mktemp("ddp") / "sweep"
    more = (
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "hydra.mode=MULTIRUN",
        f"method={','.join(METHODS)}",
        f"hydra.sweep.dir='{out}'",
        "hydra.sweep.subdir=${method.name}",
    )
    command = [sys.executable, "-m", "dreambooth", "train", *spine.overrides(*STEPS, *more)]
    quiet = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, cwd=out.parent, env=environment(), **quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "printed").write_text(done.stdout)
    return out


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_equal_one_on_the_joint_batch(spine, sweep, tmp_path, method):
    one = spine.run(tmp_path, *STEPS, f"method={method}", "batch_size=2")
    phase = METHODS.index(method)
    for i in range(phase + 1):
        a, b = checkpoint(one, i)["state_dict"], checkpoint(sweep / method, i)["state_dict"]
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(b[name], a[name], rtol=0, atol=1e-6)
    start = spine.run(tmp_path / "half", *STEPS, f"method={method}")
    half = checkpoint(start, phase)["state_dict"]
    assert any((half[name] - a[name]).abs().max() > 1e-5 for name in a)  # the test can fail


def test_only_the_first_process_writes_and_prints(sweep):
    printed = (sweep / "printed").read_text()
    assert len(re.findall(r"^\d/2  ", printed, re.MULTILINE)) == len(METHODS)
    assert {p.name for p in sweep.iterdir() if p.is_dir()} == {*METHODS, "figures"}
    assert {p.name for p in sweep.parent.iterdir()} == {"sweep"}  # no folder of another's
    for method, steps in zip(METHODS, ((0, 2), (0, 2, 4)), strict=True):
        out = sweep / method
        record = json.loads((out / "run.json").read_text())
        assert record["config"]["output_dir"] == str(out)
        names = {p.name for p in (out / "samples").glob("step-*.png")}
        assert names == {f"step-{step:06d}.png" for step in steps}
        assert (out / "model/model_index.json").exists()
        logged = [p for p in out.rglob("*.log")]
        assert [p.name for p in logged] == ["train.log"]
