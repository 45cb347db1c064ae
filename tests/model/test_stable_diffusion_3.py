"""SD3: its networks compute what diffusers' own pipeline does, and the main job runs on it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from omegaconf import OmegaConf
from PIL import Image
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.configuration.specs import train_spec
from dreambooth.errors import UserError
from dreambooth.evaluation.identifiers import Words, prediction_shifts
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapters.extraction import extract_lora, write_extracted
from dreambooth.model.adapters.lora_files import load_adapters, save_lora
from dreambooth.model.adapters.merging import merge_file
from dreambooth.model.architectures import load_model
from dreambooth.model.phases import Phase
from dreambooth.model.snippet import sampler_options
from dreambooth.model.stable_diffusion_3 import StableDiffusion3
from dreambooth.model.trainable import TrainableWeights
from dreambooth.sampling.draw import draw
from dreambooth.sampling.morph import Morph, draw_frames
from dreambooth.sampling.spec import Sampling
from dreambooth.study.finished.runs import Run
from spine import checkpoint, same

PROMPTS = ["a photo of sks dog", "", "unheard-of WORDS, 42!"]
EULER = "FlowMatchEulerDiscreteScheduler"
LENGTH = 3  # zeros in the place of T5
WITHOUT = {"text_encoder_3": None, "tokenizer_3": None}
LORA = "peft.LoraConfig"


def load(folder: Path) -> StableDiffusion3:
    model = load_model(str(folder), max_sequence_length=LENGTH)
    assert type(model) is StableDiffusion3
    return model


@pytest.fixture(scope="module")
def tiny(tiny_sd3_model_dir) -> StableDiffusion3:
    return load(tiny_sd3_model_dir)


@pytest.fixture(scope="module")
def reference(tiny_sd3_model_dir) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_sd3_model_dir, **WITHOUT)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("length", [0, LENGTH])
def test_embed_equals_encode_prompt(tiny_sd3_model_dir, reference, length):
    model = load_model(str(tiny_sd3_model_dir), max_sequence_length=length)
    theirs, _, pooled, _ = reference.encode_prompt(
        PROMPTS,
        PROMPTS,
        PROMPTS,
        device="cpu",
        do_classifier_free_guidance=False,
        max_sequence_length=length,
    )
    ours = model.embed(PROMPTS)
    assert torch.equal(ours.tokens, theirs) and torch.equal(ours.extra["text_embeds"], pooled)
    assert ours.tokens.shape[1] == model.tokenizer.model_max_length + length


def test_latents_are_decoded_to_the_pixels_that_the_pipeline_makes(tiny, reference):
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, logvar = tiny.encode(pixels)
    latents = tiny.sample_latents(mean, logvar, torch.zeros_like(mean))
    shift, scale = reference.vae.config.shift_factor, reference.vae.config.scaling_factor
    assert shift and latents.shape == (1, 16, 8, 8)
    assert torch.allclose(latents / scale + shift, reference.vae.encode(pixels).latent_dist.mean)


@pytest.mark.parametrize("negative", ["", "red toy"])
def test_a_picture_and_a_still_film_are_the_pipelines_own(tiny, reference, negative):
    sampling = Sampling(EULER, 2, 3.0, 16, 2, negative_prompt=negative)
    theirs = reference(
        "a dog on the beach",
        negative_prompt=negative or None,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=16,
        width=16,
        max_sequence_length=LENGTH,
    ).images[0]
    (ours,) = draw(tiny, ["a dog on the beach"], [0], sampling)
    assert ours.tobytes() == theirs.tobytes()
    _, beside = draw(tiny, ["a cat", "a dog on the beach"], [7, 0], sampling)  # in one batch
    assert np.abs(np.asarray(beside, np.int16) - np.asarray(ours, np.int16)).max() <= 1
    (still,) = draw_frames(tiny, Morph(("a dog on the beach",), (0,), 4), [0], sampling)
    assert still.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("path", sorted((CONF / "scheduler").glob("flow_*")), ids=lambda p: p.stem)
def test_the_line_that_a_user_is_told_makes_the_runs_sampler(tiny, reference, path):
    choice = OmegaConf.to_container(OmegaConf.load(path))
    ours = tiny.process.sampler(choice["name"], choice["options"])
    options = sampler_options(tiny.source, ours)
    told = type(ours).from_config(reference.scheduler.config, **options)
    for sampler in (ours, told):
        sampler.set_timesteps(5)
    assert torch.equal(ours.sigmas, told.sigmas) and torch.equal(ours.timesteps, told.timesteps)


# -- the main job -------------------------------------------------------------------------------

METHODS = {
    "full": ("method=full", "train_text_encoder=true", "prior.kind=prediction"),
    "lora": (
        "method=lora",
        "train_text_encoder=true",
        "lr=1e-2",
        "export.layouts=[diffusers,peft]",
    ),
}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_to_the_bit_and_diffusers_draws_its_picture(sd3_spine, tmp_path, method):
    steps = (*METHODS[method], "max_steps=4", "export.verify=auto")
    whole, parts = sd3_spine.whole_and_resumed(tmp_path, *steps)
    a, b = checkpoint(whole), checkpoint(parts)
    assert same(a["state_dict"], b["state_dict"]) and a["global_step"] == 4
    assert {name.partition(".")[0] for name in a["state_dict"]} == {
        "transformer",
        "text_encoder",
        "text_encoder_2",
    }
    verified = json.loads((whole / "run.json").read_text())["verified"]
    assert len(verified) == (2 if method == "lora" else 1)
    for each in verified.values():
        assert each["error"] is None and each["tensors"] == each["loaded"]
    read = Run.read(whole)
    (again,) = draw(read.load_model(), ["a sks dog"], [0], read.sampling)
    with Image.open(next((whole / "samples/final").glob("00_*_seed0.png"))) as own:
        assert own.tobytes() == again.tobytes()


@pytest.fixture(scope="module")
def plain(sd3_spine, spine, tmp_path_factory) -> dict[str, dict]:
    """The configurations of a flow-matching and of a diffusion model, as plain values."""
    out = tmp_path_factory.mktemp("plain")
    made = {"flow": sd3_spine.compose(out), "diffusion": spine.compose(out)}
    return {name: OmegaConf.to_container(cfg, resolve=True) for name, cfg in made.items()}


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("flow", "loss.min_snr_gamma", 5, "gamma=5 belongs to a diffusion model's noise schedule"),
        ("flow", "loss.noise_offset", 0.1, "noise_offset=0.1 belongs to a diffusion"),
        ("flow", "loss.logit_std", 0, "loss.logit_std=0 must be a number greater than 0"),
        ("flow", "loss.mode_scale", 2, "loss.mode_scale=2 must be a number from -1 to 1.75"),
        ("flow", "loss.shift", 0, "loss.shift=0 must be a number greater than 0, or null"),
        ("diffusion", "loss.shift", 2, "shift=2 has no effect with loss.timesteps=uniform"),
        ("diffusion", "loss.timesteps", "mode", "timesteps=mode is for models that are trained by"),
        (
            "diffusion",
            "loss.weighting",
            "cosmap",
            "weighting=cosmap is for models that are trained",
        ),
        ("flow", "scheduler.name", "DDIMScheduler", "does not sample from a flow-matching model"),
        (
            "flow",
            "prior.sampler.name",
            "PNDMScheduler",
            "prior.sampler.name: PNDMScheduler does no",
        ),
        ("diffusion", "scheduler.name", EULER, "does not sample from a diffusion model, which"),
    ],
)
def test_what_is_of_the_other_process_is_refused_before_any_work(plain, kind, key, value, message):
    cfg = OmegaConf.create(plain[kind])
    OmegaConf.update(cfg, key, value)
    with pytest.raises(UserError, match=message):
        train_spec(cfg)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=textual_inversion", "Stable Diffusion 3 and 3.5 takes no new words"),
        ("method=lora export.layouts=[diffusers,kohya]", "kohya, which no tool here writes"),
    ],
)
def test_what_the_model_cannot_do_is_refused(sd3_spine, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        sd3_spine.run(tmp_path, *override.split())


def test_a_resolution_has_a_place_for_every_patch(tiny):
    tiny.check_resolution(32)
    for side in (30, 36):
        with pytest.raises(UserError, match=f"{side} must be a multiple of 4 .* and 32 at most"):
            tiny.check_resolution(side)


def test_a_length_is_told_to_the_models_that_take_one(tiny_sd3_model_dir, tiny_model_dir):
    for length in (None, 513, True):
        with pytest.raises(UserError, match="must be a whole number from 0 to 512"):
            load_model(str(tiny_sd3_model_dir), max_sequence_length=length)
    with pytest.raises(UserError, match="max_sequence_length=77 is for models such as"):
        load_model(str(tiny_model_dir), max_sequence_length=77)


# -- adapters -----------------------------------------------------------------------------------

MLPS = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "attn2.to_v")


def test_adapters_of_every_projection_are_what_diffusers_loads(tiny_sd3_model_dir, tmp_path):
    """Those of the YAML file, the MLPs and the second attention; of both kinds of text encoders."""
    targets = [*OmegaConf.load(CONF / "model/sd35_medium.yaml").adapter_targets, *MLPS]
    options = {"r": 2, "lora_alpha": 6.0, "target_modules": targets, "init_lora_weights": False}
    weights = TrainableWeights(load(tiny_sd3_model_dir), 0, AdapterSettings(LORA, options))
    weights.prepare(Phase("adapter", "adapter"))
    save_lora(weights.model, tmp_path)
    layers = {name.split(".lora_")[0] for name in weights.state()}
    # q, k, v, out of image and text in 2 blocks, but no text out of the last; its MLPs, and attn2
    assert sum("transformer." in name for name in layers) == 15 + 6 + 1
    assert sum("text_encoder." in name for name in layers) == 8

    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_sd3_model_dir, **WITHOUT)
    pipeline.load_lora_weights(tmp_path)
    told = {"device": "cpu", "do_classifier_free_guidance": False, "max_sequence_length": LENGTH}
    tokens, _, pooled, _ = pipeline.encode_prompt(*(PROMPTS[:2],) * 3, **told)
    noisy = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([900.0, 31.5])
    theirs = pipeline.transformer(noisy, tokens, pooled, times).sample

    def predict(model) -> torch.Tensor:
        return model.predict(noisy, times, model.embed(PROMPTS[:2]))

    loaded, merged, plain = (load(tiny_sd3_model_dir) for _ in range(3))
    load_adapters(loaded, tmp_path)
    merge_file(merged, tmp_path)
    for model in (weights.model, loaded, merged):
        torch.testing.assert_close(predict(model), theirs, rtol=0, atol=1e-4)
    assert (predict(plain) - theirs).abs().max() > 1e-2
    states = {n: (plain.base_state(n), merged.base_state(n)) for n in plain.trainable_networks}
    found = {name: extract_lora(*pair, rank=2) for name, pair in states.items()}
    write_extracted(plain, found, tmp_path / "extracted")
    torch.testing.assert_close(predict(plain), theirs, rtol=0, atol=1e-3)


def test_words_are_ranked_by_how_far_they_move_the_velocity(tiny):
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    shifts = prediction_shifts(tiny, Words("dog", 2, 0), ["sks", "red"], images)
    assert len({*shifts.values(), 0.0}) == 3 and all(v > 0 for v in shifts.values())


def test_an_export_without_t5_says_nothing_of_it(tiny_sd3_model_dir, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    load_model(str(tiny_sd3_model_dir), max_sequence_length=0).export(tmp_path / "out")
    assert not caplog.messages


# -- with T5 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_t5(tiny_sd3_model_dir, tmp_path_factory) -> Path:
    """The tiny model with a T5 encoder that knows three words."""
    folder = tmp_path_factory.mktemp("with_t5") / "model"
    shutil.copytree(tiny_sd3_model_dir, folder)
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581dog", "\u2581photo", "\u2581of"]
    T5TokenizerFast(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0).save_pretrained(
        folder / "tokenizer_3"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(pieces), d_model=64, d_kv=16, d_ff=32, num_layers=1, num_heads=2
        )
        T5EncoderModel(config).save_pretrained(folder / "text_encoder_3")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder_3"] = ["transformers", "T5EncoderModel"]
    index["tokenizer_3"] = ["transformers", "T5TokenizerFast"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_t5_is_read_written_and_run_once_for_a_prompt(with_t5, tmp_path, monkeypatch):
    model = load_model(str(with_t5), max_sequence_length=5)
    model.export(tmp_path / "out", dtype=torch.bfloat16)
    pipelines = [StableDiffusion3Pipeline.from_pretrained(p) for p in (with_t5, tmp_path / "out")]
    told = {"device": "cpu", "do_classifier_free_guidance": False, "max_sequence_length": 5}
    theirs, rounded = (p.encode_prompt(*(PROMPTS,) * 3, **told)[0] for p in pipelines)
    forward, calls = T5EncoderModel.forward, []
    monkeypatch.setattr(
        T5EncoderModel, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k)
    )
    ours = [model.embed(PROMPTS).tokens for _ in range(2)]
    assert len(calls) == len(PROMPTS) and torch.equal(ours[0], ours[1])
    torch.testing.assert_close(ours[0], theirs)
    torch.testing.assert_close(rounded.float(), theirs, rtol=0.1, atol=0.1)
    assert ours[0][:, -5:].abs().sum() > 0
    names = [n for n, _ in model.named_parameters() if n.startswith("text_encoder_3")]
    assert names and "text_encoder_3" not in model.trainable_networks


@pytest.mark.slow
@pytest.mark.thorough
def test_t5_is_cast_before_anything_is_drawn_and_class_images_say_so(with_t5, sd3_spine, tmp_path):
    own = (f"model.path='{with_t5}'", f"cache_dir='{tmp_path / 'cache'}'", "method=lora")
    sd3_spine.run(tmp_path / "run", *own, "frozen_dtype=bfloat16", "export.verify=false")
    (file,) = (tmp_path / "cache/class_images").glob("*/facts.json")
    assert json.loads(file.read_text())["cast"] == {"text_encoder_3": "bfloat16"}


def test_t5_needs_a_token_and_its_folder(with_t5, tmp_path):
    with pytest.raises(UserError, match="max_sequence_length=0 must be a whole number from 1"):
        load_model(str(with_t5), max_sequence_length=0)
    shutil.copytree(with_t5, tmp_path / "model")
    shutil.rmtree(tmp_path / "model/text_encoder_3")
    with pytest.raises(UserError, match="lacks text_encoder_3"):
        load_model(str(tmp_path / "model"), max_sequence_length=5)


def test_a_length_is_part_of_what_pictures_depend_on(tiny_sd3_model_dir):
    hashes = {
        load_model(str(tiny_sd3_model_dir), max_sequence_length=n).weights_hash() for n in (0, 1)
    }
    assert len(hashes) == 2
