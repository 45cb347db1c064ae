"""What is verified fails where it should: other weights, tensors that match nothing, no file."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreambooth.errors import UserError
from dreambooth.training import job
from dreambooth.training.exports import verify
from dreambooth.training.logs.summary import refuse_unverified

SHORT = ("max_steps=1", "ppl=false", "method=lora", "lr=1e-1", "export.layouts=[diffusers,kohya]")
SHORT += ("export.verify=auto",)


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


def test_other_weights_draw_another_picture(run, record, own):
    program = "\n".join(
        line for line in record["programs"]["kohya"].splitlines() if "load_lora" not in line
    )
    result = verify._verified(program, (), own, False, 0.5)
    assert result.error is not None and "draws another picture" in result.error
    assert result.mean is not None and result.mean > 0.5


def test_a_tensor_that_matches_no_layer_is_an_error(run, record, own, tmp_path):
    file = run / "exports/kohya/photos.safetensors"
    names = ("to_q", "to_qq")
    state = {k.replace(*names) if "down_blocks" in k else k: x for k, x in load_file(file).items()}
    damaged = tmp_path / "x.safetensors"
    save_file(state, damaged)
    program = record["programs"]["kohya"].replace(str(file), str(damaged))
    result = verify._verified(program, (damaged,), own, False, 255.0)
    assert result.error is not None
    assert "are in no layer" in result.error or "cannot be loaded" in result.error


def test_a_fresh_process_shares_nothing(monkeypatch):
    asked = "\nimport sys\nloaded = [str('torch' in sys.modules)]\n"
    monkeypatch.setattr(verify, "LOADED", asked)
    program = "from PIL import Image\nimage = Image.new('RGB', (2, 2))\nimage.save('out.png')\n"
    image, loaded = verify._run_fresh(program)
    assert image.size == (2, 2) and loaded == ["False"]
    result = verify._verified("raise OSError('no such file')\n", (), image, True, 0.5)
    assert result.error == "it cannot be loaded (OSError: no such file)"


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
