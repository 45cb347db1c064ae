"""The lines that a run prints for diffusers, run as they are, draw the run's own picture."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from dreambooth.pocket.embedded import FOLDER
from spine import Spine, environment

pytestmark = pytest.mark.slow

POCKET = ("model=pocket", "model.path=pocket", "resolution=64", "ppl=false")
SHORT = ("model.recommended.textual_inversion.max_steps=2",)
RUNS = {
    "full": ("method=full", "train_text_encoder=true", "scheduler=euler_a"),
    "dora": ("method=dora", "train_text_encoder=true", "scheduler=dpmpp_2m", "lr=1e-2"),
    "oft": ("method=oft", "train_text_encoder=true", "lr=1e-1"),
    "pivotal_tuning": ("method=pivotal_tuning", "method.token_max_steps=1", "lr=1e-2"),
    "textual_inversion": ("method=textual_inversion", "scheduler=pndm", "lr=1e-1"),
    "ti_then_full": ("method=ti_then_full", "scheduler=ddim", *SHORT),
    # the embedded weights are float16 files, and its tokenizer cuts "pattern" into five tokens
    "pocket_lora": (*POCKET, "method=lora", "train_text_encoder=true", "lr=1e-2"),
    "pocket_token": (*POCKET, "method=textual_inversion", "subject.class_noun=fabric pattern"),
}
EXECUTE = """
import os, sys
for file in sys.argv[1:]:
    os.chdir(os.path.dirname(file))
    exec(compile(open(file).read(), file, "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="module")
def drawn(spine: Spine, tmp_path_factory) -> Path:
    """Every run's printed lines, executed in one process that holds nothing of this project."""
    root = tmp_path_factory.mktemp("snippets")
    files = []
    for name, overrides in RUNS.items():
        with redirect_stdout(StringIO()) as printed:
            spine.run(root / name, "ppl=false", *overrides)
        start, end = (printed.getvalue().index(text) for text in ("import torch\n", "image.save("))
        last = printed.getvalue().index("\n", end)
        files.append(root / name / "snippet.py")
        files[-1].write_text(printed.getvalue()[start:last])
    command = [sys.executable, "-c", EXECUTE, *map(str, files)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("name", RUNS)
def test_the_picture_is_the_run_s_own(drawn, name):
    own = next((drawn / name / "samples" / "final").glob("00_*_seed0.png"))
    ours, theirs = (Image.open(path) for path in (own, drawn / name / "out.png"))
    assert ours.size == theirs.size and ours.tobytes() == theirs.tobytes()


def test_the_embedded_weights_load_in_one_dtype():
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert len(pipeline("a dog", num_inference_steps=2).images) == 1
