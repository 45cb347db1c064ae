"""What an image says of itself, in the words that other programs read."""

from __future__ import annotations

import json
import re

import pytest

from dreambooth import __version__
from dreambooth.errors import UserError
from dreambooth.files import folder_hash
from dreambooth.sampling.provenance import Provenance, Weights, export_hashes
from dreambooth.sampling.spec import Sampling

SAMPLING = Sampling("EulerAncestralDiscreteScheduler", 20, 7.5, 512, 4, negative_prompt="blurry")
LORA = Weights("sd15", "lora", "a,b: run", {"export": "0123456789abcdef", "base": "f" * 16})
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # AUTOMATIC1111's own


def pairs(text: str) -> dict[str, str]:
    """The last line, read as AUTOMATIC1111's `parse_generation_parameters` does."""
    return dict(PAIR.findall(text.split("\n")[-1]))


def test_the_shared_text_is_what_other_programs_read():
    text = Provenance(LORA, SAMPLING, ("torch.float32",)).text("a sks dog,\nred", 7)["parameters"]
    assert text.startswith("a sks dog,\nred\nNegative prompt: blurry\nSteps: 20, ")
    assert pairs(text) == {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7.5",
        "Seed": "7",
        "Size": "512x512",
        "Model hash": "f" * 10,
        "Model": "sd15",
        "Lora hashes": '"a-b- run: 0123456789"',
        "Version": f"dreambooth {__version__}",
    }


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (Weights("m", "full", "r", {"export": "e" * 16}), {"Model hash": "e" * 10}),
        (
            Weights("m", "full", "r", {"base": "b" * 16, "checkpoint": "c" * 64}, 50),
            {"Base model hash": "b" * 10, "Checkpoint hash": "c" * 10, "Training step": "50"},
        ),
        (Weights("m", "token", "r", {"export": "e" * 16}), {"TI hashes": f'"r: {"e" * 10}"'}),
        (Weights("m", "lora", "r", {}, None, 0.5), {"Adapter weight": "0.5"}),
    ],
)
def test_weights_are_named_by_their_hashes(weights, expected):
    found = pairs(Provenance(weights, SAMPLING, ()).text("a dog", 0)["parameters"])
    assert found["Model"] == "m" and expected.items() <= found.items()
    assert ("Model hash" in found) == ("Model hash" in expected)


def test_our_own_text_holds_every_setting():
    provenance = Provenance(LORA, SAMPLING, ("torch.float32",))
    record = json.loads(provenance.text("a 犬", 7)["dreambooth"])
    assert record["prompt"] == "a 犬" and record["seed"] == 7
    assert record["hashes"] == LORA.hashes and record["version"] == __version__
    assert set(record) >= {"sampler", "steps", "guidance_scale", "width", "dtype", "run"}
    keys = {"export", "base", "dtypes", *SAMPLING.facts}
    assert provenance.facts.keys() == keys  # as metrics.json has always held them


def test_a_whole_pipeline_needs_no_base_model(tmp_path):
    with pytest.raises(UserError, match="holds no model"):
        export_hashes(tmp_path, lambda: "b")
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    assert export_hashes(tmp_path, lambda: "b") == {"export": folder_hash(tmp_path), "base": "b"}
    (tmp_path / "model_index.json").write_text("{}")
    assert set(export_hashes(tmp_path, lambda: pytest.fail("asked"))) == {"export"}
