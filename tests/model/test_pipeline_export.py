"""An exported folder is whole, loads in diffusers and holds exactly the model's weights."""

from __future__ import annotations

import os

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dreambooth import files as cache
from dreambooth.errors import UserError
from dreambooth.files import folder_hash
from dreambooth.model import pipeline_export as export
from dreambooth.model.peft_layers import merge_adapters
from dreambooth.model.stable_diffusion import StableDiffusion


def weights(folder) -> dict[str, torch.Tensor]:
    state = {}
    for part in StableDiffusion.layout.networks:
        for name, tensor in load_file(next((folder / part).glob("*.safetensors"))).items():
            state[f"{part}.{name.removeprefix('text_model.')}"] = tensor
    return state


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []


def test_export_of_an_untouched_model_is_the_model(model, tiny_model_dir, tmp_path):
    model.export(tmp_path / "out")
    assert_same(weights(tmp_path / "out"), weights(tiny_model_dir))
    files = {str(f.relative_to(tmp_path / "out")) for f in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_files_do_not_depend_on_what_a_tokenizer_was_asked_last(model, tmp_path):
    """A run that takes a training over asks other things, and its export has the same hash."""
    for name, options in {"padded": {"padding": "max_length"}, "plain": {}}.items():
        model.tokenizer("a dog", **options)
        model.export(tmp_path / name)
    assert folder_hash(tmp_path / "padded") == folder_hash(tmp_path / "plain")


def test_export_names_text_encoder_weights_as_every_reader_expects(model, tmp_path):
    model.export(tmp_path / "out")
    names = load_file(tmp_path / "out/text_encoder/model.safetensors")
    assert all(name.startswith("text_model.") for name in names)


def test_export_holds_no_path_of_this_machine(model, tiny_model_dir, tmp_path):
    model.export(tmp_path / "out")
    for file in (tmp_path / "out").rglob("*.json"):
        assert str(tiny_model_dir) not in file.read_text(), file


def test_trained_weights_give_the_same_prediction_after_a_round_trip(
    model, prepared, predict, train, tmp_path
):
    weights = prepared("full", "full")
    before = predict(model).detach()
    train(weights)
    model.export(tmp_path / "out")
    trained = predict(model).detach()
    assert (trained - before).abs().max() > 0.01
    loaded = StableDiffusion.from_pretrained(str(tmp_path / "out"))
    assert torch.equal(predict(loaded), trained)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    embeddings, _ = pipeline.encode_prompt(["a photo of sks dog"], "cpu", 1, False)
    assert torch.equal(embeddings, model.embed(["a photo of sks dog"]).tokens)


def test_adapters_stay_out_until_they_are_merged(
    model, prepared, lora, predict, train, tiny_model_dir, tmp_path
):
    train(prepared("adapter", "adapter", adapter=lora))
    model.export(tmp_path / "base")
    assert_same(weights(tmp_path / "base"), weights(tiny_model_dir))
    merge_adapters(model)
    model.export(tmp_path / "merged")
    loaded = StableDiffusion.from_pretrained(str(tmp_path / "merged"))
    assert torch.equal(predict(loaded), predict(model))
    assert weights(tmp_path / "merged").keys() == weights(tiny_model_dir).keys()


def test_parts_that_were_frozen_in_bf16_are_exported_exactly(
    model, prepared, lora, tiny_model_dir, tmp_path
):
    prepared("adapter", "frozen", adapter=lora, frozen_dtype=torch.bfloat16)
    assert model.unet.dtype == model.vae.dtype == torch.bfloat16
    model.export(tmp_path / "out")
    assert_same(weights(tmp_path / "out"), weights(tiny_model_dir))


def test_export_leaves_the_model_as_it_is(model, prepared, lora, predict, train, tmp_path):
    train(prepared("adapter", "frozen", adapter=lora))
    before, names = predict(model), list(model.state_dict())
    model.export(tmp_path / "out")
    assert torch.equal(predict(model), before) and list(model.state_dict()) == names


def test_an_earlier_folder_is_replaced_whole(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").write_text("from another run")
    model.export(tmp_path / "out")
    assert not (tmp_path / "out" / "stale.txt").exists()
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("fails", ["_prefix_text_encoder", "replace"])
def test_a_failed_export_leaves_what_was_there(model, tmp_path, monkeypatch, earlier, fails):
    if earlier:
        model.export(tmp_path / "out")
    before = weights(tmp_path / "out") if earlier else None

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os if fails == "replace" else export, fails, full_disk)
    with torch.no_grad():
        model.unet.conv_in.weight += 1
    with pytest.raises(UserError, match="is full"):
        model.export(tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == (["out"] if earlier else [])
    if earlier:
        assert_same(weights(tmp_path / "out"), before)


def test_export_is_readable_by_others(model, tmp_path):
    model.export(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o055 == 0o055 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
