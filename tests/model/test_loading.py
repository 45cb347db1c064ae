"""A model folder that is whole loads; any other ends in one sentence that names the part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth.diffusion.samplers import make_scheduler
from dreambooth.errors import UserError
from dreambooth.model import architectures, source
from dreambooth.model.stable_diffusion import StableDiffusion

NETWORKS = tuple(StableDiffusion.layout.networks)
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_model_dir, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.fixture
def hub(monkeypatch) -> list[str]:
    """No hub, no cache: the names that were asked for."""
    asked = []

    def refuse(repo, **options):
        asked.append(repo)
        raise OSError("no such thing as a network")

    monkeypatch.setattr(source, "snapshot_download", refuse)
    monkeypatch.setattr(source.HfApi, "model_info", lambda self, repo, **options: refuse(repo))
    monkeypatch.setattr(source, "is_offline_mode", lambda: False)
    return asked


def test_without_a_network_no_download_is_tried(hub, monkeypatch):
    """A download retries for a minute or more; the first file tells the architecture."""
    tried = []

    def download(path, name, local_files_only=False, **options):
        tried.append(local_files_only)
        raise OSError("not in the cache")

    monkeypatch.setattr(architectures, "hf_hub_download", download)
    monkeypatch.setattr(architectures, "is_offline_mode", lambda: False)
    assert architectures.architecture_of("org/name") is StableDiffusion
    assert tried == [True] and hub == ["org/name"]


def refusal(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        StableDiffusion.from_pretrained(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize(
    "absent",
    [
        "model_index.json",
        "unet/config.json",
        UNET_WEIGHTS,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_folder_that_lacks_a_file_names_it(folder, absent):
    (folder / absent).unlink()
    message = refusal(folder)
    assert f"lacks {absent}" in message and "model.path" in message


@pytest.mark.parametrize("part", [*NETWORKS, "tokenizer", "scheduler"])
def test_a_folder_that_lacks_a_part_names_it(folder, part):
    shutil.rmtree(folder / part)
    assert f"lacks {part}/" in refusal(folder)


@pytest.mark.parametrize("part", NETWORKS)
def test_cut_weights_name_the_part(folder, part):
    file = next((folder / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    assert str(folder / part) in refusal(folder)


@pytest.mark.parametrize("part", NETWORKS)
def test_a_missing_tensor_is_not_filled_with_noise(folder, part):
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    state.pop(sorted(state)[-1])
    save_file(state, file, metadata={"format": "pt"})
    assert str(folder / part) in refusal(folder)


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "tokenizer/tokenizer.json"]
)
def test_damaged_json_names_the_file_s_part(folder, name):
    (folder / name).write_text("{")
    assert str(folder / name.split("/")[0]) in refusal(folder)


def test_unknown_sampler_names_the_scheduler(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "NoSuchScheduler"}))
    assert str(file) in refusal(folder)


def test_weights_that_are_pickled_are_not_read(folder):
    torch.save(load_file(folder / UNET_WEIGHTS), folder / "unet/diffusion_pytorch_model.bin")
    (folder / UNET_WEIGHTS).unlink()
    assert f"lacks {UNET_WEIGHTS}" in refusal(folder)


def test_other_pipelines_are_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionXLPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "is a StableDiffusionXLPipeline" in refusal(folder)


def test_parts_of_different_models_are_refused(folder):
    config = json.loads((folder / "vae/config.json").read_text())
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_config({**config, "latent_channels": 3})
    vae.save_pretrained(folder / "vae")
    assert "takes 4 channels but its vae gives 3" in refusal(folder)


@pytest.mark.parametrize("path", ["./no-such", "/no/such", "../no-such", "~/no-such", "a/b/c"])
def test_what_looks_local_is_never_asked_of_the_hub(hub, path):
    assert "does not exist" in refusal(path)
    assert hub == []


def test_a_file_is_not_a_model(hub, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is not a folder" in refusal(tmp_path / "model.safetensors")


def test_an_existing_relative_folder_is_local(hub, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert StableDiffusion.from_pretrained("model").source.path == "model"
    assert hub == []


@pytest.mark.parametrize("path", ["someone/model", "model"])
def test_unreachable_hub_is_one_sentence(hub, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(path)
    assert path in message and "no such thing as a network" in message and "model.path" in message
    assert hub == [path, path]  # the cache, then one question: no retries


def test_hub_model_is_loaded_from_the_snapshot_and_keyed_by_its_commit(
    hub, tiny_model_dir, tmp_path, monkeypatch
):
    commit = "0123456789abcdef"
    shutil.copytree(tiny_model_dir, tmp_path / commit)
    monkeypatch.setattr(source, "snapshot_download", lambda repo, **_: str(tmp_path / commit))
    model = StableDiffusion.from_pretrained("someone/model")
    again = StableDiffusion.from_pretrained("someone/model")
    local = StableDiffusion.from_pretrained(str(tiny_model_dir))
    assert model.weights_hash() == again.weights_hash() != local.weights_hash()
    assert hub == []


def test_variant_reads_its_own_files_as_float32(folder):
    for part in NETWORKS:
        file = next((folder / part).glob("*.safetensors"))
        half = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(half, file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"})
    plain = StableDiffusion.from_pretrained(str(folder))
    half = StableDiffusion.from_pretrained(str(folder), variant="fp16")
    weight, rounded = plain.unet.conv_in.weight, half.unet.conv_in.weight
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, weight.half().float()) and not torch.equal(rounded, weight)
    assert plain.weights_hash() != half.weights_hash()
    assert "lacks unet/diffusion_pytorch_model.bf16.safetensors" in refusal(folder, variant="bf16")


def test_hash_depends_on_content_and_on_nothing_else(folder, tiny_model_dir, monkeypatch):
    original = StableDiffusion.from_pretrained(str(tiny_model_dir)).weights_hash()
    assert len(original) == 16
    (folder / "README.md").write_text("a note")
    (folder / "unet" / "diffusion_pytorch_model.other.safetensors").write_bytes(b"other")
    copy = StableDiffusion.from_pretrained(str(folder))
    assert copy.weights_hash() == original
    state = load_file(folder / UNET_WEIGHTS)
    state["conv_in.bias"][0] += 1e-3
    save_file(state, folder / UNET_WEIGHTS, metadata={"format": "pt"})
    assert copy.weights_hash() == original  # of what was loaded: computed once
    assert StableDiffusion.from_pretrained(str(folder)).weights_hash() != original


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "scheduler/scheduler_config.json"])
def test_hash_covers_tokenizer_and_scheduler(folder, tiny_model_dir, name):
    (folder / name).write_text((folder / name).read_text() + "\n")
    changed = StableDiffusion.from_pretrained(str(folder)).weights_hash()
    assert changed != StableDiffusion.from_pretrained(str(tiny_model_dir)).weights_hash()


def test_loading_leaves_the_random_state_and_prints_nothing(tiny_model_dir, capfd):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    StableDiffusion.from_pretrained(str(tiny_model_dir))
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_latents_are_not_clipped_where_the_config_is_silent(tiny_model_dir, tmp_path):
    """diffusers' default would clip: a DDIM sampler made from it would spoil every image."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "silent")
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    config.pop("clip_sample", None)
    path.write_text(json.dumps(config))
    model = StableDiffusion.from_pretrained(str(folder))
    assert model.noise_scheduler.config.clip_sample is False
    ddim = make_scheduler("DDIMScheduler", {}, dict(model.noise_scheduler.config))
    assert ddim.config.clip_sample is False
