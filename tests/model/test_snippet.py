"""The printed lines say exactly what the run did: paths, sampler, numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
from diffusers import DDPMScheduler, DiffusionPipeline
from omegaconf import OmegaConf

from dreambooth.cli.main import CONF
from dreambooth.diffusion.samplers import make_scheduler
from dreambooth.model.loading import load_schedulers
from dreambooth.model.pipeline_export import with_training_schedule
from dreambooth.model.snippet import Picture, sampler_options, snippet
from dreambooth.model.stable_diffusion import StableDiffusion

PICTURE = Picture("a sks dog", 7, 20, 3.0, 64)
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# what is written of the noise schedule, from next to nothing to every default
WRITTEN = {
    "silent": {"_class_name": "PNDMScheduler", **NOISE},
    "sd15": {"_class_name": "PNDMScheduler", **NOISE, "clip_sample": False, "steps_offset": 1}
    | {"set_alpha_to_one": False, "skip_prk_steps": True},
    "trailing": {"_class_name": "DDIMScheduler", **NOISE, "clip_sample": False}
    | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "whole": {k: v for k, v in DDPMScheduler(**NOISE).config.items() if k[0] != "_"}
    | {"_class_name": "DDPMScheduler", "clip_sample": False},
}
OPTIONS = [("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3})]
OPTIONS += [("EulerDiscreteScheduler", {"timestep_spacing": "linspace"})]
OPTIONS += [
    tuple(OmegaConf.to_container(OmegaConf.load(path)).values())
    for path in sorted((CONF / "scheduler").glob("*.yaml"))
    if not path.stem.startswith(("auto", "flow_"))  # the model's own; of another kind of model
]


def own_arguments(scheduler) -> dict:
    """What of a scheduler's config says how it samples; the rest belongs to other classes."""
    names = type(scheduler)._get_init_keys(type(scheduler))
    return {name: value for name, value in scheduler.config.items() if name in names}


@pytest.fixture(scope="module", params=WRITTEN)
def base(request, tiny_model_dir, tmp_path_factory) -> StableDiffusion:
    """A model whose scheduler file says little or much."""
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("base") / "model"))
    written = WRITTEN[request.param]
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(written))
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", written["_class_name"]]
    (folder / "model_index.json").write_text(json.dumps(index))
    return StableDiffusion.from_pretrained(str(folder))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_sampler_s_line_makes_the_run_s_sampler(base, name, options):
    wanted = make_scheduler(name, options, base.noise_scheduler.config)
    config = json.loads((base.source.folder / "scheduler/scheduler_config.json").read_text())
    loaded = getattr(diffusers, config["_class_name"]).from_config(config)
    made = type(wanted).from_config(loaded.config, **sampler_options(base.source, wanted))
    assert own_arguments(made) == own_arguments(wanted)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_sampler_s_options_never_reach_another_run(base, tmp_path, name, options):
    wanted = make_scheduler(name, options, base.noise_scheduler.config)
    wanted = base.pipeline(wanted).scheduler  # which diffusers may correct
    with_training_schedule(base, wanted).save_pretrained(tmp_path / "scheduler")
    training, sampler = load_schedulers(tmp_path)
    assert type(sampler) is type(wanted) and own_arguments(sampler) == own_arguments(wanted)
    assert_same_schedule(training, base.noise_scheduler)
    for other, own in OPTIONS:
        ours, theirs = (
            make_scheduler(other, own, s.config) for s in (training, base.noise_scheduler)
        )
        assert own_arguments(ours) == own_arguments(theirs), other


def assert_same_schedule(training, before) -> None:
    assert (training.alphas_cumprod == before.alphas_cumprod).all()
    assert own_arguments(training) == own_arguments(before)


@pytest.mark.slow
def test_an_export_names_the_run_s_sampler(base, tmp_path):
    name, options = OPTIONS[0]
    wanted = make_scheduler(name, options, base.noise_scheduler.config)
    base.export(tmp_path / "once", wanted)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "once")
    assert type(pipeline.scheduler).__name__ == name
    assert own_arguments(pipeline.scheduler) == own_arguments(base.pipeline(wanted).scheduler)
    again = StableDiffusion.from_pretrained(str(tmp_path / "once"))
    assert_same_schedule(again.noise_scheduler, base.noise_scheduler)
    again.export(tmp_path / "twice")
    once, twice = (
        (tmp_path / folder / "scheduler/scheduler_config.json").read_text()
        for folder in ("once", "twice")
    )
    assert once == twice


def test_a_folder_of_diffusers_own_trains_on_its_schedule(base, tmp_path):
    """Without the entry that our exports have: betas and prediction type are the sampler's."""
    wanted = make_scheduler("EulerDiscreteScheduler", {}, base.noise_scheduler.config)
    wanted.save_pretrained(tmp_path / "scheduler")
    training, _ = load_schedulers(tmp_path)
    assert (training.alphas_cumprod == base.noise_scheduler.alphas_cumprod).all()
    assert training.config.prediction_type == base.process.prediction_type
    assert training.config.clip_sample is False


def test_a_pipeline_needs_no_sampler(model):
    scheduler = make_scheduler("DDIMScheduler", {}, model.noise_scheduler.config)
    assert snippet(model, "full", Path("out/model"), scheduler, PICTURE) == (
        """import torch
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("out/model", dtype=torch.float32)
image = pipe(
    prompt="a sks dog",
    num_inference_steps=20,
    guidance_scale=3.0,
    height=64,
    width=64,
    generator=torch.Generator().manual_seed(7),
).images[0]
image.save("out.png")
"""
    )


def test_adapters_and_tokens_go_onto_the_base_model(model, tiny_model_dir):
    options = {"use_karras_sigmas": True}
    karras = make_scheduler("DPMSolverMultistepScheduler", options, model.noise_scheduler.config)
    lora = snippet(model, "lora", Path("out/model"), karras, PICTURE).splitlines()
    assert lora[1] == "from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline"
    assert lora[3:6] == [
        f'pipe = StableDiffusionPipeline.from_pretrained("{tiny_model_dir}", dtype=torch.float32)',
        "pipe.scheduler = DPMSolverMultistepScheduler.from_config("
        "pipe.scheduler.config, use_karras_sigmas=True)",
        'pipe.load_lora_weights("out/model")',
    ]
    token = snippet(model, "token", Path("out/x.safetensors"), karras, PICTURE).splitlines()
    assert token[5] == 'pipe.load_textual_inversion("out/x.safetensors")'
    assert token[:5] == lora[:5]


def test_what_a_hub_model_needs_is_passed_on(model, tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    model.source = replace(
        model.source, path="some/model", folder=folder, revision="main", variant="fp16"
    )
    line = snippet(model, "lora", Path("x"), model.pipeline().scheduler, PICTURE).splitlines()[3]
    assert line == (
        'pipe = StableDiffusionPipeline.from_pretrained("some/model", '
        "revision='main', variant='fp16', safety_checker=None, dtype=torch.float32)"
    )


def test_device_dtype_and_odd_characters(model):
    picture = Picture('a "sks" dog\\', 0, 4, 7.5, 16, "blurry", device="cuda", dtype="bfloat16")
    scheduler = model.pipeline().scheduler
    code = snippet(model, "full", Path("a 'b' \"c\""), scheduler, picture)
    compile(code, "snippet", "exec")
    lines = code.splitlines()
    assert lines[3] == (
        'pipe = StableDiffusionPipeline.from_pretrained("a \'b\' \\"c\\"", dtype=torch.float32)'
    )
    assert lines[4:8] == [
        'pipe.to("cuda")',
        'with torch.autocast("cuda", torch.bfloat16):',
        "    image = pipe(",
        '        prompt="a \\"sks\\" dog\\\\",',
    ]
    assert '        negative_prompt="blurry",' in lines
    less = snippet(model, "full", Path("x"), scheduler, replace(picture, offload=True))
    assert less.splitlines()[4] == "pipe.enable_model_cpu_offload()"
