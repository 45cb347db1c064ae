"""What is verified fails where it should: other weights, tensors that match nothing, no file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.training import job
from dreambooth.training.exports import consumer
from dreambooth.training.exports.consumer import digest
from dreambooth.training.exports.fresh_process import (
    FreshProcess,
    FreshProcessError,
    Loaded,
    fresh_process,
)
from dreambooth.training.exports.verify import compared
from dreambooth.training.logs.summary import refuse_unverified

SHORT = ("max_steps=1", "ppl=false", "method=lora", "lr=1e-1", "export.layouts=[diffusers,kohya]")
SHORT += ("export.verify=auto",)
PIPELINE = "StableDiffusionPipeline"


@pytest.fixture(scope="module")
def run(spine, tmp_path_factory):
    return spine.run(tmp_path_factory.mktemp("verified") / "run", *SHORT)


@pytest.fixture(scope="module")
def record(run) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def own(run) -> Image.Image:
    return Image.open(next((run / "samples/final").glob("*.png")))


pytestmark = pytest.mark.slow


def test_every_layout_holds_what_was_trained_and_draws_the_run_s_picture(record):
    """In a process that cannot import this package, and whose libraries are loaded once."""
    for layout in ("diffusers", "kohya"):
        result = record["verified"][layout]
        assert result["error"] is None and result["most"] <= 1
        assert result["loaded"] == result["tensors"] > 0


def test_other_weights_are_found(run, record, own):
    program = "\n".join(
        line for line in record["programs"]["kohya"].splitlines() if "load_lora" not in line
    )
    loaded = fresh_process().run(program, PIPELINE)
    trained = [
        digest(x) for x in load_file(run / "model/pytorch_lora_weights.safetensors").values()
    ]
    result = compared(loaded, own, (), (), 0.5)
    assert result.error is not None and "draws another picture" in result.error
    assert result.mean is not None and result.mean > 0.5
    result = compared(loaded, own, trained, (), 255.0)
    assert result.loaded < result.tensors == len(trained)
    assert f"of the {len(trained)} tensors that it holds are not" in str(result.error)


def test_a_tensor_that_matches_no_layer_is_an_error(run, record, own, tmp_path):
    file = run / "exports/kohya/photos.safetensors"
    names = ("to_q", "to_qq")
    state = {k.replace(*names) if "down_blocks" in k else k: x for k, x in load_file(file).items()}
    damaged = tmp_path / "x.safetensors"
    save_file(state, damaged)
    program = record["programs"]["kohya"].replace(str(file), str(damaged))
    try:
        result = compared(fresh_process().run(program, PIPELINE), own, (), (damaged,), 255.0)
        assert "are in no layer" in str(result.error)
    except FreshProcessError as error:  # some versions of diffusers refuse it
        assert "to_qq" in str(error)


def test_another_value_of_one_weight_is_found():
    """A picture alone may not show it."""
    picture = Image.new("RGB", (2, 2))
    before, after = torch.ones(3), torch.tensor([1.0, 1.0, 1.0 + 2**-20])
    held = {"adapters": [], "weights": [digest(after)], "words": [digest(before[:2])]}
    result = compared(Loaded(picture, held), picture, [digest(before), digest(after)], (), 0.5)
    assert result.error == "1 of the 2 tensors that it holds are not as they were trained"
    assert compared(Loaded(picture, held), picture, [digest(after[:2])], (), 0.5).error is None


ENDS = {  # how a program ends => what is said of it
    "import dreambooth": "ModuleNotFoundError: import of dreambooth halted",
    "raise OSError('no such file\\nsee the manual')": "OSError: no such file",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "killed by SIGKILL, as where the",
    "import os; os._exit(3)": "its process ended with code 3",
}


@pytest.mark.parametrize("end", ENDS)
def test_how_a_program_fails_is_said_and_the_next_one_runs(end):
    process = fresh_process()
    with pytest.raises(FreshProcessError, match=ENDS[end]):
        process.run(f"{end}\n", PIPELINE)
    drawing = "from PIL import Image\nimport torch\nclass pipe:\n    components = {}\n"
    drawing += "image = Image.new('RGB', (2, 2))\nprompt = 'image.save('\nimage.save('out.png')\n"
    loaded = process.run(drawing, PIPELINE)
    assert loaded.image.size == (2, 2) and not loaded.held["weights"]


def test_a_process_that_takes_too_long_or_cannot_start_is_said(monkeypatch, tmp_path):
    script = tmp_path / "consumer.py"
    script.write_text("import sys\nfor line in sys.stdin: pass\n")
    monkeypatch.setattr(consumer, "__file__", str(script))
    process = FreshProcess(timeout=0.2)
    with pytest.raises(FreshProcessError, match="it took more than 0 seconds"):
        process.run("pass\n", PIPELINE)
    assert process._process is None  # it is ended, with what it had started
    script.write_text("raise SystemExit('no module named diffusers')\n")
    with pytest.raises(FreshProcessError, match="no module named diffusers"):
        process.run("pass\n", PIPELINE)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(FreshProcessError, match="no process can be started"):
        process.run("pass\n", PIPELINE)


def test_without_forks_a_program_has_a_process_of_its_own(run, tmp_path):
    """As on other systems than Linux, and where CUDA was started before the fork."""
    program = "from PIL import Image\nimage = Image.new('RGB', (2, 2))\nimport dreambooth\n"
    (tmp_path / consumer.PROGRAM).write_text(program)
    done = subprocess.run([sys.executable, "-P", consumer.__file__, "--alone", str(tmp_path)])
    result = json.loads((tmp_path / consumer.RESULT).read_text())
    assert done.returncode == 0 and "import of dreambooth halted" in result["error"]


def test_a_failed_verification_is_an_error_after_everything_is_written(
    spine, tmp_path, monkeypatch
):
    failed = {"diffusers": {"error": "it draws another picture", "mean": 9.0}}
    monkeypatch.setattr("dreambooth.training.finish.verify", lambda *_: failed)
    spec = spine.spec(tmp_path / "run", "max_steps=1", "ppl=false")
    done = job.run(spec).finished
    record = json.loads((spec.folder / "run.json").read_text())
    assert record["finished"] and record["verified"] == failed and done is not None
    with pytest.raises(UserError, match="diffusers export of .* draws another picture"):
        refuse_unverified(done)


def test_files_say_what_they_are(run):
    with safe_open(run / "exports/kohya/photos.safetensors", "pt") as opened:
        metadata, names = opened.metadata(), set(opened.keys())
    assert metadata["modelspec.architecture"].endswith("/lora")
    assert metadata["modelspec.trigger_phrase"] == "sks dog"
    assert json.loads(metadata["ss_tag_frequency"]) == {"photos": {"a sks dog": 3}}
    assert (
        metadata["ss_network_module"] == "networks.lora" and metadata["ss_max_train_steps"] == "1"
    )
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    assert {f"{layer}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")} <= names
    assert torch.equal(
        load_file(run / "exports/kohya/photos.safetensors")[f"{layer}.alpha"], torch.tensor(4.0)
    )


def test_layouts_that_do_not_fit_are_refused(spine, tmp_path):
    for overrides, words in (
        (("export.layouts=[diffusers,kohya]",), "kohya, and this run exports a whole model"),
        (("method=lora", "export.layouts=[kohya]"), "must hold diffusers"),
        (("method=dora", "export.layouts=[diffusers,kohya]"), "norms of a DoRA"),
        (("export.layouts=[safetensors]",), "export.layouts"),
        (("export.push_to_hub=mine",), "no ORG/NAME"),
    ):
        with pytest.raises(UserError, match=words):
            spine.spec(tmp_path, *overrides)
