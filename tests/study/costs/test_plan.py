"""Plans of sweeps, compared with counts by hand."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    Flux2Transformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers what the YAML files use
from dreambooth.cli.configuration.configs import CONF
from dreambooth.study.costs.disk import disk_of, disk_of_runs
from dreambooth.study.costs.estimates import Earlier, Rates, estimate
from dreambooth.study.costs.known_models import KNOWN
from dreambooth.study.costs.plan import Work
from dreambooth.study.costs.sizes import PARAMETERS, PER_RANK

OWN = ("output_dir=out", "trainer=cpu", "samples.seeds=[0,1]", "samples.every_n_steps=0")


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("train", [*OWN, *overrides]), resolve=True)
    return plain


def work(*runs: tuple[str, ...]) -> Work:
    return Work.of([composed(*run) for run in runs])


def trained(plan: Work) -> tuple[int, int, int]:
    return plan.last_phases, plan.steps, plan.steps_alone


def test_what_changes_no_weight_trains_once_and_more_steps_continue():
    runs = [
        ("scheduler=ddim", "max_steps=100"),
        ("scheduler=pndm", "max_steps=100"),
        ("scheduler=pndm", "max_steps=250"),
        ("scheduler=pndm", "max_steps=250", "lr=1e-5"),
    ]
    configs = [composed(*run) for run in runs]
    assert trained(Work.of(configs)) == (2, 500, 700)
    alone = [{**config, "lr_schedule": "cosine"} for config in configs]  # its length is a part
    assert trained(Work.of(alone)) == (3, 600, 700)
    anew = [{**config, "resume": None} for config in configs]
    assert trained(Work.of(anew)) == (4, 700, 700)


def test_without_a_prior_its_settings_make_no_other_training():
    runs = [("max_steps=9", f"prior.num_inference_steps={n}") for n in (10, 20)]
    assert trained(work(*runs)) == (2, 18, 18)
    assert trained(work(*((*run, "ppl=false") for run in runs))) == (1, 9, 18)


def test_a_first_phase_is_shared_by_different_second_ones():
    first = "model.recommended.textual_inversion.max_steps=30"
    runs = [
        ("method=ti_then_full", first, f"max_steps={n}", lr)
        for n, lr in ((10, "lr=1"), (20, "lr=2"))
    ]
    assert trained(work(*runs)) == (2, 30 + 10 + 20, 30 + 10 + 30 + 20)


def test_images_are_counted_by_hand():
    """5 prompts x 2 seeds; 4 prompts of `quick` x 2 seeds and 8 of the class."""
    prompts = "samples.prompts=[a,b,c,d,e]"
    both = work((prompts, "subject=dog"), (prompts, "subject=dog8", "prior.num_class_images=99"))
    assert [count for _, count in both.class_images] == [99]  # both are of `a dog`
    assert both.samples == 2 * 10 and both.scored == 2 * (4 * 2 + 8)
    curve = ("max_steps=25", "evaluation.every_n_steps=10", "samples.every_n_steps=20")
    seen = work((prompts, *curve, "ppl=false"), (prompts, *curve, "ppl=false", "scheduler=lms"))
    assert seen.class_images == work((prompts, "prior.kind=prediction")).class_images == []
    assert seen.samples == 2 * 10 + 2 * 10  # at steps 0 and 20 of one training, and two ends
    assert seen.scored == 3 * (4 * 1 + 4) + 2 * 16  # the curve at 0, 10, 20


def record(config: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Ten steps of 4 photos in 2 s, 8 samples x 20 steps in 1.6 s, and 16 scores in 4 s."""
    stages = {
        "training": {"seconds": 2.5},
        "export": {"seconds": 0.5},
        "samples": {"seconds": 1.6},
        "evaluation": {"seconds": 4.0},
    }
    costs = {"stages": stages, "seconds": 10.0, "peak_memory_gib": 1.5, "bytes_written": 100}
    costs["phase_0"] = {"seconds": 2.0, "steps": 10}
    return {"finished": True, "device": device, "config": config, "costs": costs}


def test_costs_are_those_of_earlier_runs(monkeypatch):
    config = composed("ppl=false", "batch_size=4", "max_steps=10")
    rates = Rates.of_record(record(config))
    assert rates.train == pytest.approx(2.0 / 40) and rates.draw == pytest.approx(0.01)
    assert rates.score == pytest.approx(4.0 / 16 - 20 * 0.01)
    assert rates.other == pytest.approx(10 - 8.6 + 0.5)
    earlier = Earlier([], "cpu")
    monkeypatch.setattr(Earlier, "records", [record(config)])
    again = estimate(Work.of([config]), earlier)
    assert again.seconds == pytest.approx(2.0 + 1.6 + 4.0 + 1.9)
    assert again.memory_gib == 1.5
    assert again.sources == ["1 earlier run on cpu"]
    longer = composed("ppl=false", "batch_size=8", "max_steps=30")
    assert estimate(Work.of([longer]), earlier).seconds == pytest.approx(12.0 + 1.6 + 4.0 + 1.9)


def test_records_are_not_sought_in_the_depths_of_a_home(tmp_path):
    names = ("run.json", "multirun/day/run/run.json", "a/b/c/d/run.json")
    for path in [tmp_path / name for name in names]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record(composed("ppl=false", "batch_size=4", "max_steps=10"))))
    assert len(Earlier([tmp_path], "cpu").records) == 2


def test_a_model_without_earlier_runs_is_estimated_by_its_size():
    """Stable Diffusion 1.5: full fine-tuning wrote checkpoints of 11.8 GB and 4.3 GB of export."""
    sd = ("model=sd15", "photos.root=x", "max_steps=1", "evaluation=none")
    both = composed(*sd, "train_text_encoder=true")
    disk = disk_of(both)
    assert disk is not None
    assert disk.left + disk.shared == pytest.approx(11.8e9 + 4.3e9, rel=0.01)
    costs = estimate(Work.of([both]), Earlier([], "cpu"))
    assert costs.seconds is None and costs.sources == ["the sizes of sd15's networks"]
    assert costs.memory_gib == pytest.approx(18, rel=0.2)
    lost = composed("model.name=mine", "model.path=org/mine")
    assert estimate(Work.of([lost]), Earlier([], "cuda")).memory_gib is None


STUDY = ("model=sd15", "photos.root=x", "max_steps=1000", "evaluation=paper", "samples.seeds=[0]")
STUDY += ("evaluation.metrics=[dino,clip_i,clip_t,pres,div]",)  # the five of the published studies


def study(*more: str) -> float:
    """Gigabytes that 30 subjects x PPL on and off leave, pictures included."""
    config = composed(*STUDY, "reuse=off", *more)
    total = disk_of_runs([config] * 60)
    disk = disk_of(config)
    assert total is not None and disk is not None
    return (total - disk.while_training) / 1e9  # which is gone when they have finished


def test_the_disk_of_a_study_of_stable_diffusion_is_bounded():
    """What float32 exports and two checkpoints a run left: 1.5 TB."""
    assert study("checkpoint.keep_when_finished=2") > 1400
    half = ("export.dtype=float16", "checkpoint.keep_when_finished=0")
    assert study(*half) < 110
    disk = disk_of(composed(*STUDY))
    assert disk is not None
    pictures = 60 * disk.images / 1e9  # 132 and those of other classes, and 4 samples
    assert study(*half, "method=lora", "export.kind=lora") - pictures < 3
    assert study(*half, "export.kind=none") == pytest.approx(pictures)


def test_runs_of_one_training_have_its_checkpoints_once():
    runs = [composed("max_steps=100", f"scheduler={name}") for name in ("ddim", "pndm", "lms")]
    others = [composed("max_steps=100", f"seed={seed}") for seed in range(3)]
    one, disk = disk_of_runs(runs[:1]), disk_of(runs[0])
    same, apart = disk_of_runs(runs), disk_of_runs(others)
    assert disk is not None and one is not None and same is not None and apart is not None
    assert disk.checkpoints > 1e8  # float32 weights and two moments of 9.6 M parameters
    assert same - one == pytest.approx(2 * (disk.left - disk.checkpoints))
    assert apart - one == pytest.approx(2 * disk.left)


CLIP_L = CLIPTextConfig(**KNOWN["sdxl"]["text_encoder"], projection_dim=768)
CLIP_H = CLIPTextConfig(**KNOWN["sd21"]["text_encoder"])
CLIP_G = CLIPTextConfig(**KNOWN["sdxl"]["text_encoder_2"])
XL = KNOWN["sdxl"]["unet"]
KLEIN = KNOWN["flux2_klein"]
QWEN = Qwen3Config(**KLEIN["text_encoder"])


# the configuration of diffusers' scripts/convert_sd3_to_diffusers.py, of 24 layers
SD35_MEDIUM = KNOWN["sd35_medium"]["unet"]
PROJECTED = CLIPTextModelWithProjection
SD3_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
T5_XXL = T5Config(
    vocab_size=32128,
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=24,
    num_heads=64,
    feed_forward_proj="gated-gelu",
)
NEVER_TRAIN = [(AutoencoderKL, SD3_VAE), (T5EncoderModel, T5_XXL)]
CLIP = (CLIPTextModel, CLIP_L)


@pytest.mark.parametrize(
    ("name", "denoiser", "encoders", "others"),
    [
        ("sd15", (UNet2DConditionModel, {"cross_attention_dim": 768}), [CLIP], []),
        ("sd21", (UNet2DConditionModel, KNOWN["sd21"]["unet"]), [(CLIPTextModel, CLIP_H)], []),
        ("sdxl", (UNet2DConditionModel, XL), [CLIP, (PROJECTED, CLIP_G)], []),
        (
            "sd35_medium",
            (SD3Transformer2DModel, SD35_MEDIUM),
            [(PROJECTED, CLIP_L), (PROJECTED, CLIP_G)],
            NEVER_TRAIN,
        ),
        (
            "flux2_klein",
            (Flux2Transformer2DModel, KLEIN["unet"]),
            [(Qwen3ForCausalLM, QWEN)],
            [(AutoencoderKLFlux2, {})],
        ),
    ],
)
def test_the_counted_parameters_are_those_of_the_architecture(name, denoiser, encoders, others):
    """Networks of the public configurations, with no memory for their weights."""
    parts = {"unet": [denoiser], "text_encoder": encoders} | ({"vae": others} if others else {})
    ends = tuple(f".{end}" for end in composed(f"model={name}")["model"]["adapter_targets"])
    parameters, per_rank = Counter(), Counter()
    for part, networks in parts.items():
        for kind, config in networks:
            with torch.device("meta"):
                is_own = isinstance(config, PreTrainedConfig)
                network: Any = kind(config) if is_own else kind.from_config(config)
            parameters[part] += sum(p.numel() for p in network.parameters())
            named = network.named_modules()
            layers = [m for n, m in named if n.endswith(ends) and hasattr(m, "weight")]
            per_rank[part] += sum(sum(m.weight.shape) for m in layers)
    assert parameters == {part: PARAMETERS[name][part] for part in parameters}
    assert {part: per_rank[part] for part in ("unet", "text_encoder")} == PER_RANK[name]


def test_the_disk_of_a_local_model_is_read_from_its_files():
    pocket = disk_of(composed("checkpoint.keep_when_finished=0"))
    lora = disk_of(composed("method=lora", "checkpoint.keep_when_finished=0"))
    assert pocket is not None and lora is not None
    assert pocket.left - pocket.images == pytest.approx(38.6e6, rel=0.01)
    assert 1e5 < lora.left - lora.images < 1e6
