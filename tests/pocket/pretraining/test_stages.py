"""The pretraining stages one after another, as the command runs them, in the smallest sizes."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, ViTModel

from dreambooth.errors import UserError
from dreambooth.pocket.embedded import weights_hash
from dreambooth.pocket.pretraining import probe
from dreambooth.pocket.pretraining.latents import vae_hash
from dreambooth.pocket.pretraining.stages import pretrain
from dreambooth.pocket.pretraining.text_pair import TextPair
from small_pretraining import make, small_shards

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
]  # 2 to 3 s for each of the tests that run several stages


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def made(tmp_path_factory, patch):
    """A cache in which every stage was run, with photos for the VAE, and the exported folder."""
    root = tmp_path_factory.mktemp("made")
    small_shards(patch, root / "cache")
    (root / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(root / "photos/a.png")
    more = f"photos='{root / 'photos'}'", "vae.crops_per_photo=2", "vae.photo_share=0.5"
    pretrain(make(root / "cache", f"export_to='{root / 'weights'}'", *more))
    return root / "cache", root / "weights"


@pytest.fixture
def fresh(tmp_path, patch):
    """A cache that holds nothing but scenes."""
    small_shards(patch, tmp_path / "fresh")
    return tmp_path / "fresh"


@pytest.fixture
def copied(made, tmp_path):
    """A copy of `made` that a test may damage."""
    for name, folder in zip(("cache", "weights"), made, strict=True):
        shutil.copytree(folder, tmp_path / name)
    return tmp_path / "cache", tmp_path / "weights"


def files(folder) -> dict[str, bytes]:
    """Read every file but the card."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def export(cache, target, *more: str) -> str:
    """Run the stage and return the card."""
    pretrain(make(cache, "stages=[export]", f"export_to='{target}'", *more))
    return (target / "README.md").read_text()


def words(card: str) -> str:
    """Join the card's lines."""
    return " ".join(card.split())


def warned(caplog) -> str:
    """Join this project's warnings."""
    return "".join(r.getMessage() for r in caplog.records if r.name.startswith("dreambooth"))


def same(state: dict, module: torch.nn.Module, prefix: str = "") -> None:
    weights = module.state_dict()
    assert len([name for name in state if name.startswith(prefix)]) == len(weights)
    for name, value in weights.items():
        assert torch.equal(state[prefix + name], value), prefix + name


def test_stages_make_a_pipeline_that_draws(made):
    cache, target = made
    pipeline = StableDiffusionPipeline.from_pretrained(target)
    pipeline.set_progress_bar_config(disable=True)
    drawn: Any = pipeline("a red dog", height=64, width=64, num_inference_steps=2)
    image = drawn.images[0]
    assert image.size == (64, 64)
    assert len(probe.judge(probe.load_probe(target), np.asarray(image)[None])) == 1
    assert str(cache.parent) not in (target / "vae/config.json").read_text()


def test_the_flow_matching_model_opens_in_diffusers_own_pipeline(made):
    cache, target = made
    folder = target.with_name("weights_flow")
    without = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32, **without)
    pipeline.set_progress_bar_config(disable=True)
    tokens, _, pooled, _ = pipeline.encode_prompt(
        "a red dog", None, None, do_classifier_free_guidance=False, max_sequence_length=0
    )
    ids = pipeline.tokenizer("a red dog", padding="max_length", return_tensors="pt").input_ids
    expected = TextPair(target)(ids)
    torch.testing.assert_close((tokens, pooled), expected)
    for length in (0, 256):
        drawn: Any = pipeline(
            "a red dog", height=64, width=64, num_inference_steps=2, max_sequence_length=length
        )
        assert drawn.images[0].size == (64, 64)
    state = torch.load(cache / "flow.pt", weights_only=True)
    names = [name for name, _ in pipeline.transformer.named_parameters()]
    shipped = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    for name, average in zip(names, state["ema"], strict=True):
        assert torch.equal(shipped[name], average.half()), name
    assert "| transformer | 8 |" in (folder / "README.md").read_text()


def test_every_stage_starts_from_init(made, fresh, caplog):
    _, target = made
    still = [f"{stage}.lr=0" for stage in ("vae", "denoiser", "encoders", "probe")]
    stages = "stages=[vae,latents,denoiser,encoders,probe]"
    with caplog.at_level(logging.INFO):
        pretrain(make(fresh, stages, f"init='{target}'", "encoders.which=[clip,dino]", *still))
    states = {
        name: torch.load(fresh / f"{name}.pt", weights_only=True)
        for name in ("vae", "denoiser", "clip", "dino", "probe")
    }
    begun = {name: state["module"] for name, state in states.items()}
    pipeline = StableDiffusionPipeline.from_pretrained(target, dtype=torch.float32)
    same(begun["vae"], pipeline.vae)
    same(begun["denoiser"], pipeline.unet, "unet.")
    same(begun["denoiser"], pipeline.text_encoder, "text_encoder.")
    same(begun["clip"], CLIPModel.from_pretrained(target / "encoders/clip", dtype=torch.float32))
    dino = ViTModel.from_pretrained(
        target / "encoders/dino", dtype=torch.float32, add_pooling_layer=False
    )
    same(begun["dino"], dino)
    same(begun["probe"], probe.load_probe(target))
    assert all(state["sessions"][0]["init"] for state in states.values())
    assert f"clip: starts from {target}/encoders/clip" in caplog.text
    with caplog.at_level(logging.INFO):  # and now from the checkpoint
        pretrain(make(fresh, "stages=[probe]", f"init='{target}'", "probe.samples=12"))
    assert "probe: resumed at 8 samples" in caplog.text
    assert caplog.text.count("probe: starts from") == 1


def test_the_vae_of_init_serves_with_its_own_scaling_factor(copied, fresh):
    _, init = copied
    config = json.loads((init / "vae/config.json").read_text()) | {"scaling_factor": 0.5}
    (init / "vae/config.json").write_text(json.dumps(config))
    target = fresh.parent / "target"
    more = f"init='{init}'", f"export_to='{target}'"
    pretrain(make(fresh, "stages=[latents,denoiser,export]", *more))
    assert AutoencoderKL.from_pretrained(target / "vae").config["scaling_factor"] == 0.5
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert files(target)[weights] == files(init)[weights]
    assert files(target)["probe.safetensors"] == files(init)["probe.safetensors"]
    card = (target / "README.md").read_text()
    assert "started from an earlier package's weights: denoiser." in words(card)
    assert "earlier package or run: vae, encoders/dino, encoders/clip, probe" in words(card)
    assert "crops of real photos" not in words(card)


def test_the_card_says_what_the_checkpoints_say(made, copied):
    card = (made[1] / "README.md").read_text()
    text = words(card)
    assert "Seed 0, U-Net batch 4, 16 scenes" in text and "hours on CPU cores. |" in text
    assert "crops of real photos" in text and "small CLIP" in text
    rows = [line.split(" | ")[:2] for line in card.splitlines() if line.startswith("| ")]
    names = ("denoiser", "vae", "dino", "clip", "probe")
    assert [row[0] for row in rows[1:]] == [f"| {name}" for name in names]
    assert {row[1] for row in rows[1:]} == {"8"} and "earlier package" not in text
    assert str(made[0].parent) not in card
    cache, target = copied
    assert card == export(cache, target, "denoiser.batch_size=7", "denoiser.scenes=32", "seed=5")
    (cache / "vae.json").unlink()  # nothing is known of it
    assert "crops of real photos" not in words(export(cache, target))


def test_figures_are_shown_only_with_their_own_weights(copied):
    cache, target = copied
    quality = {"images": 4, "weights": weights_hash(target), "vae": {"scenes": 27.25}}
    (cache / "quality.json").write_text(json.dumps(quality))
    card = export(cache, target)
    assert "| vae | scenes 27.2 |" in card
    assert card == export(cache, target)  # the card does not count as weights
    probe.save_probe(probe.Probe(), cache)
    assert "27.2" not in export(cache, target)


def test_export_never_ships_less_than_there_is(copied, caplog):
    cache, target = copied
    before = files(target)
    shutil.rmtree(cache / "encoders/dino")
    (cache / "encoders/clip/model.safetensors").unlink()  # no more than a tokenizer
    (cache / "probe.safetensors").unlink()
    card = export(cache, target)
    assert files(target) == before
    assert "earlier package or run: encoders/dino, encoders/clip, probe" in words(card)
    assert "| clip |" not in card and "| vae |" in card and not warned(caplog)

    shutil.rmtree(target / "encoders/dino")
    card = export(cache, target)
    left = {name: data for name, data in before.items() if not name.startswith("encoders/dino")}
    assert files(target) == left
    assert "will lack encoders/dino" in warned(caplog) and "small CLIP" not in words(card)


def test_a_vae_of_its_own_is_asked_of_latents_and_export(copied, caplog):
    cache, target = copied
    before = files(target)
    weights = cache / "vae/diffusion_pytorch_model.safetensors"
    vae = AutoencoderKL.from_pretrained(cache / "vae")
    with torch.no_grad():
        vae.get_parameter("encoder.conv_in.bias").zero_()
    vae.save_pretrained(cache / "vae")
    assert load_file(weights)["encoder.conv_in.bias"].abs().sum() == 0
    with pytest.raises(UserError, match="latents of another VAE"):
        export(cache, target)
    assert files(target) == before
    with pytest.raises(UserError, match="run stage latents before it"):
        pretrain(make(cache, "stages=[denoiser]"))
    old = set(cache.glob("latents-*/*"))
    caplog.clear()
    more = "denoiser.samples=12", f"export_to='{target}'"
    pretrain(make(cache, "stages=[latents,denoiser,export]", *more))
    assert "latents of another VAE than before" in warned(caplog)
    assert old < set(cache.glob("latents-*/*"))
    state = torch.load(cache / "denoiser.pt", weights_only=True)
    assert state["sessions"][-1]["vae"] == vae_hash(cache / "vae")
    assert len(state["sessions"]) == 2
    caplog.clear()
    pretrain(make(cache, "stages=[denoiser]", "denoiser.samples=16"))
    assert not warned(caplog)


@pytest.mark.parametrize(
    ("stage", "sizes"),
    (
        ("vae", "vae.channels=[8,8,8,16]"),
        ("denoiser", "denoiser.channels=[16,32]"),
        ("export", "denoiser.channels=[16,32]"),
        ("flow", "flow.width=32"),
        ("export_flow", "flow.layers=1"),
        ("encoders", "encoders.width=64"),
    ),
)
def test_a_checkpoint_of_other_sizes_is_one_sentence(copied, stage, sizes):
    cache, target = copied
    with pytest.raises(UserError, match="of the configured sizes"):
        pretrain(make(cache, f"stages=[{stage}]", sizes, f"export_to='{target}'"))


def test_an_init_of_other_sizes_is_one_sentence(made, fresh):
    with pytest.raises(UserError, match="encoders/dino is damaged or not of the configured sizes"):
        pretrain(make(fresh, "stages=[encoders]", f"init='{made[1]}'", "encoders.width=64"))
