"""The embedded model's files: their hash, and the sentence when they are damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from dreambooth.errors import UserError
from dreambooth.metrics import encoders
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.pocket import embedded as weights
from dreambooth.pocket.embedded import model_path, weights_hash

COMMAND = "`git checkout -- src/dreambooth/pocket` from the repository's root, or reinstall"


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])


@pytest.fixture
def embedded(tiny_model_dir, tmp_path, monkeypatch) -> Path:
    """A small model in the place of the package's own."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "weights"))
    monkeypatch.setitem(weights.FOLDERS, "pocket", folder)
    return folder


def refusal() -> str:
    """What `model=pocket` says."""
    with pytest.raises(UserError) as caught:
        StableDiffusion.from_pretrained(model_path("pocket"))
    message = str(caught.value)
    assert "\n" not in message and "model.path" not in message
    return message


@pytest.mark.parametrize("how", ["gone", "cut"])
@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "vae/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_damaged_part_is_named_with_the_command_that_restores_it(embedded, name, how):
    damage(embedded / name, how)
    message = refusal()
    assert name.split("/")[0] in message and COMMAND in message


def test_a_part_that_is_not_there_is_named_with_the_command(embedded):
    shutil.rmtree(embedded / "unet")
    message = refusal()
    assert "lacks unet/" in message and COMMAND in message


def test_weights_that_are_all_missing_are_one_sentence(embedded):
    shutil.rmtree(embedded)
    assert str(embedded) in refusal() and COMMAND in refusal()


def test_another_folder_is_still_the_user_s_own(embedded, tmp_path):
    other = Path(shutil.copytree(embedded, tmp_path / "other"))
    (other / "vae/config.json").unlink()
    with pytest.raises(UserError, match="lacks vae/config.json: point model.path"):
        StableDiffusion.from_pretrained(str(other))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pocket_dino", "config.json"),
        ("pocket_dino", "model.safetensors"),
        ("pocket_dino", "preprocessor_config.json"),
        ("pocket_clip", "model.safetensors"),
        ("pocket_clip", "tokenizer.json"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_encoder_of_the_package_is_restored(
    encoders_dir, tmp_path, monkeypatch, name, part, how
):
    folder = Path(shutil.copytree(encoders_dir, tmp_path / "package"))
    damage(folder / name.removeprefix("pocket_") / part, how)
    monkeypatch.setattr(encoders, "POCKET_WEIGHTS", folder)
    with pytest.raises(UserError) as caught:
        encoders.load_encoder(name)
    message = str(caught.value)
    assert COMMAND in message and name.removeprefix("pocket_") in message and "\n" not in message


@pytest.mark.parametrize("part", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_encoder_of_the_user_s_is_his_to_repair(encoders_dir, tmp_path, part):
    folder = Path(shutil.copytree(encoders_dir, tmp_path / "own"))
    damage(folder / "clip" / part, "cut")
    with pytest.raises(UserError, match="put config.json, model.safetensors and tokenizer files"):
        encoders.load_encoder("pocket_clip", encoders_dir=folder)


def pretend(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_hash_is_of_names_and_bytes_of_the_weights_alone(tmp_path):
    names = ["unet/a.safetensors", "encoders/dino/b.safetensors", "probe.safetensors"]
    first, second = pretend(tmp_path / "1", names), pretend(tmp_path / "2", names[::-1])
    files = {name: hashlib.sha256(name.encode()).hexdigest() for name in sorted(names)}
    expected = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    assert weights_hash(first) == weights_hash(second) == expected
    (second / "README.md").write_text("a card")
    assert weights_hash(second) == expected
    (second / names[1]).write_bytes(b"others")
    assert weights_hash(second) != expected
    (first / names[2]).rename(first / "judge.safetensors")
    assert weights_hash(first) != expected
