"""Weights divided among two processes: the files of one process, and an exact resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreambooth.errors import UserError
from spine import Spine, checkpoint, same

# with a small eps Adam would divide a gradient that is rounding alone by itself
STEPS = ("optimizer.eps=1e-3", "max_steps=3", "accumulate=2", "lr=1e-3", "samples.every_n_steps=2")
STEPS += ("train_text_encoder=true", "checkpoint.every_n_steps=2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(spine: Spine, tmp_path_factory) -> Path:
    """Run `0` on two CPU processes; run `1` goes on from its step 2."""
    out = tmp_path_factory.mktemp("fsdp") / "sweep"
    done = spine.shell(
        out.parent,
        "-m",
        *STEPS,
        "trainer=fsdp",
        "trainer.accelerator=cpu",
        f"resume=null,'{out}/0/checkpoints/phase-0/step-000002.ckpt'",
        f"hydra.sweep.dir='{out}'",
        "hydra.sweep.subdir=${hydra:job.num}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_two_processes_equal_one_on_the_joint_batch(spine, sweep, tmp_path):
    one = spine.run(tmp_path, *STEPS, "batch_size=2")
    a, b = checkpoint(one), checkpoint(sweep / "0")
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name in a["state_dict"]:
        torch.testing.assert_close(b["state_dict"][name], a["state_dict"][name], rtol=0, atol=1e-6)
    a, b = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert a.keys() == b.keys()
    for number in a:
        torch.testing.assert_close(b[number], a[number], rtol=0, atol=1e-6)
    files = [
        sorted(p.relative_to(run) for p in run.glob("model/**/*")) for run in (one, sweep / "0")
    ]
    assert files[0] == files[1] and len(files[0]) > 10
    for part in ("unet/config.json", "text_encoder/config.json"):
        assert (one / "model" / part).read_text() == (sweep / "0/model" / part).read_text()
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    exported = load_file(sweep / "0" / weights)
    for name, tensor in load_file(one / weights).items():
        torch.testing.assert_close(exported[name], tensor, rtol=0, atol=1e-6)
    drawn = {p.name for p in (sweep / "0/samples").glob("*.png")}
    assert drawn == {"step-000000.png", "step-000002.png", "final.png"}


def test_a_resumed_run_is_the_same_to_the_last_bit(sweep):
    whole, parts = checkpoint(sweep / "0"), checkpoint(sweep / "1")
    assert whole["global_step"] == parts["global_step"] == 3
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(whole[key], parts[key]), key


@pytest.mark.parametrize("override", ["method=lora", "ema_decay=0.9", "compile=true"])
def test_what_it_cannot_train_is_refused(spine, tmp_path, override):
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=f"without ema_decay and compile, and {key} asks"):
        spine.spec(tmp_path, "trainer=fsdp", "trainer.accelerator=cpu", override)
