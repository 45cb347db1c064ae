"""The programs that a run records for its exports, run as they are, draw the run's own picture.

The one for diffusers is what it prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from dreambooth.pocket.embedded import FOLDER
from spine import Spine, environment

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

POCKET = ("model=pocket", "model.path=pocket", "resolution=64", "ppl=false")
FLOW = ("model=pocket_flow", "model.path=pocket_flow", "resolution=64", "ppl=false")
WHOLE = ("export.layouts=[diffusers,single_file]", "export.dtype=float16")
KOHYA = "export.layouts=[diffusers,kohya]"
ADAPTER = ("export.layouts=[diffusers,kohya,peft]", "train_text_encoder=true", "method=lora")
SHORT = ("model.recommended.textual_inversion.max_steps=2",)
RUNS = {
    "full": ("method=full", "train_text_encoder=true", "scheduler=euler_a", *WHOLE),
    "lora": (*ADAPTER, "scheduler=dpmpp_2m", "lr=1e-2", "method.adapter.lora_alpha=2.5"),
    "dora": ("method=dora", "train_text_encoder=true", "scheduler=dpmpp_2m", "lr=1e-2"),
    "oft": ("method=oft", "train_text_encoder=true", "lr=1e-1"),
    "pivotal_tuning": ("method=pivotal_tuning", "method.token_max_steps=1", "lr=1e-2", KOHYA),
    "textual_inversion": ("method=textual_inversion", "scheduler=pndm", "lr=1e-1"),
    "ti_then_full": ("method=ti_then_full", "scheduler=ddim", "lr=1e-2", *WHOLE, *SHORT),
    # the embedded weights are float16 files, and its tokenizer cuts "pattern" into five tokens
    "pocket_lora": (*POCKET, *ADAPTER, "lr=1e-2", "export.dtype=float16", KOHYA),
    "flow": (*FLOW, "method=full", "lr=1e-2"),
    "flow_lora": (*FLOW, "method=lora", "export.layouts=[diffusers,peft]", "lr=1e-2"),
    "pocket_token": (*POCKET, "method=textual_inversion", "subject.class_noun=fabric pattern"),
}
EXECUTE = """
import os, sys
for file in sys.argv[1:]:
    os.chdir(os.path.dirname(file))
    exec(compile(open(file).read(), file, "exec"), {"__name__": "__main__"})
    os.rename("out.png", file.replace(".py", ".png"))
"""
LAYOUTS = {
    "full": ("diffusers", "single_file"),
    "lora": ("diffusers", "kohya", "peft"),
    "dora": ("diffusers",),
    "oft": ("diffusers",),
    "pivotal_tuning": ("diffusers", "kohya"),
    "textual_inversion": ("diffusers",),
    "ti_then_full": ("diffusers", "single_file"),
    "pocket_lora": ("diffusers", "kohya"),
    "flow": ("diffusers",),
    "flow_lora": ("diffusers", "peft"),
    "pocket_token": ("diffusers",),
}


@pytest.fixture(scope="module")
def drawn(spine: Spine, tmp_path_factory) -> Path:
    """Every program, executed in one process that holds nothing of this project."""
    root = tmp_path_factory.mktemp("snippets")
    files = []
    for name, overrides in RUNS.items():
        spine.run(root / name, "ppl=false", "export.verify=auto", *overrides)
        programs = json.loads((root / name / "run.json").read_text())["programs"]
        for layout, program in programs.items():
            files.append(root / name / f"program_{layout}.py")
            files[-1].write_text(program)
    command = [sys.executable, "-c", EXECUTE, *map(str, files)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name in RUNS for layout in LAYOUTS[name]]
)
def test_the_picture_is_the_run_s_own(drawn, name, layout):
    own = next((drawn / name / "samples" / "final").glob("00_*_seed0.png"))
    ours, theirs = (Image.open(path) for path in (own, drawn / name / f"program_{layout}.png"))
    assert ours.size == theirs.size
    difference = np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)
    # a transformer's matrix products round otherwise in the run's batch of several pictures
    same = layout == "diffusers" and name != "flow"
    assert np.abs(difference).max() <= (0 if same else 1)


@pytest.mark.parametrize("name", RUNS)
def test_the_run_has_verified_it_itself(drawn, name):
    verified = json.loads((drawn / name / "run.json").read_text())["verified"]
    assert tuple(verified) == LAYOUTS[name]
    for result in verified.values():
        assert result["error"] is None and result["most"] <= 1
        assert result["loaded"] == result["tensors"] > 0


def test_the_embedded_weights_load_in_one_dtype():
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert len(pipeline("a dog", num_inference_steps=2).images) == 1
