"""Weights divided among two processes: the files of one process, and an exact resume."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from dreambooth.cli.refusals.processes import STARTED
from dreambooth.errors import UserError
from spine import checkpoint, copy_checkpoint, same

# with a small eps Adam would divide a gradient that is rounding alone by itself
STEPS = ("optimizer.eps=1e-3", "max_steps=3", "accumulate=2", "lr=1e-3", "samples.every_n_steps=2")
STEPS += ("train_text_encoder=true", "checkpoint.every_n_steps=2")
pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture
def alone(monkeypatch):
    """Divide among one process, in this one; what Lightning sets is undone."""
    for name in STARTED:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield "trainer=fsdp", "trainer.devices=1", "trainer.accelerator=cpu"
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_on_the_joint_batch(spine, tmp_path):
    one = spine.run(tmp_path / "one", *STEPS, "batch_size=2")
    two = tmp_path / "two"
    processes = ("trainer=fsdp", "trainer.accelerator=cpu", f"hydra.run.dir='{two}'")
    done = spine.shell(tmp_path, *STEPS, *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    a, b = checkpoint(one), checkpoint(two)
    assert a["state_dict"].keys() == b["state_dict"].keys()
    for name in a["state_dict"]:
        torch.testing.assert_close(b["state_dict"][name], a["state_dict"][name], rtol=0, atol=1e-6)
    a, b = a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"]
    assert a.keys() == b.keys()
    for number in a:
        torch.testing.assert_close(b[number], a[number], rtol=0, atol=1e-6)
    files = [sorted(p.relative_to(run) for p in run.glob("model/**/*")) for run in (one, two)]
    assert files[0] == files[1] and len(files[0]) > 10
    for part in ("unet/config.json", "text_encoder/config.json"):
        assert (one / "model" / part).read_text() == (two / "model" / part).read_text()
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    exported = load_file(two / weights)
    for name, tensor in load_file(one / weights).items():
        torch.testing.assert_close(exported[name], tensor, rtol=0, atol=1e-6)
    drawn = {p.name for p in (two / "samples").glob("*.png")}
    assert drawn == {"step-000000.png", "step-000002.png", "final.png"}


def test_a_resumed_run_is_the_same_to_the_last_bit(spine, tmp_path, alone):
    """And to rounding, where only the first of the two sessions has divided weights."""
    whole, name = spine.run(tmp_path / "whole", *STEPS, *alone), "checkpoints/phase-0/step-000002"
    a = checkpoint(whole)
    resumed = {}
    for trainer in (alone, ()):
        run = tmp_path / f"resumed_{len(trainer)}"
        copy_checkpoint(whole, run, f"{name}.ckpt")
        resumed[trainer] = checkpoint(spine.run(run, *STEPS, *trainer))
        assert resumed[trainer]["global_step"] == a["global_step"] == 3
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(a[key], resumed[alone][key]), key
    for name, tensor in resumed[()]["state_dict"].items():
        torch.testing.assert_close(a["state_dict"][name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("override", ["method=lora", "ema_decay=0.9", "compile=true"])
def test_what_it_cannot_train_is_refused(spine, tmp_path, override):
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=f"without ema_decay and compile, and {key} asks"):
        spine.spec(tmp_path, "trainer=fsdp", "trainer.accelerator=cpu", override)
