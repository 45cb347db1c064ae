"""Tiny pipelines of a seed in Stable Diffusion's real format, and a scored run of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# one thread for each process: pytest-xdist runs one process per core; read when torch loads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hydra import compose, initialize_config_dir

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.startup import postponed_imports

with postponed_imports():  # as a command does
    import pytorch_lightning  # noqa: F401
    import torch
    from diffusers import (
        AutoencoderKL,
        AutoencoderKLFlux2,
        DDIMScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
        PNDMScheduler,
        SchedulerMixin,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from tokenizers import pre_tokenizers
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        Qwen2Tokenizer,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

from dreambooth.pocket.pretraining.tokenizer import build_tokenizer
from dreambooth.training.exports.fresh_process import fresh_process
from spine import Spine
from tiny_encoders import pocket_encoders

fresh_process().fork()  # as a command does, before this process computes
# a shell that starts the tests in the background has them ignore Ctrl-C, which some tests send
signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = "a an photo of on in the with dog cat toy pattern fabric red blue beach grass snow".split()
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NOISE |= {"num_train_timesteps": 1000, "steps_offset": 1, "set_alpha_to_one": False}

EULER = {k: v for k, v in NOISE.items() if k not in ("set_alpha_to_one",)}
EULER |= {"timestep_spacing": "leading", "prediction_type": "epsilon"}


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """Epsilon prediction with PNDM, as Stable Diffusion 1.5; 16 px pictures, 8x8x4 latents."""
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, prediction_type="epsilon")
    return _save(tmp_path_factory.mktemp("tiny"), scheduler)


@pytest.fixture(scope="session")
def tiny_v_model_dir(tmp_path_factory) -> Path:
    """v-prediction with DDIM, as Stable Diffusion 2.1; else as `tiny_model_dir`."""
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, prediction_type="v_prediction")
    return _save(tmp_path_factory.mktemp("tiny_v"), scheduler)


def _save(folder: Path, scheduler: SchedulerMixin) -> Path:
    tokenizer = build_tokenizer(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder, vae = CLIPTextModel(_text_config(tokenizer, 32)), _vae()
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            block_out_channels=[32, 64],
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=2,  # diffusers' name for the number of heads
            norm_num_groups=8,
        )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae(channels: int = 4, **more: object) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 16],
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


@pytest.fixture(scope="session")
def tiny_xl_model_dir(tmp_path_factory) -> Path:
    """Two text encoders of different widths, and a denoiser that is told sizes, as SDXL's."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny_xl"), build_tokenizer(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = [
            encoder(_text_config(tokenizer, width))
            for encoder, width in ((CLIPTextModel, 16), (CLIPTextModelWithProjection, 32))
        ]
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            block_out_channels=[32, 64],
            layers_per_block=1,
            cross_attention_dim=48,
            attention_head_dim=[2, 4],
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        )
        vae = _vae()
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**EULER),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_sd3_model_dir(tmp_path_factory) -> Path:
    """Two CLIP text encoders and no T5, dual attention in the first block, as SD3.5 medium's."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny_sd3"), build_tokenizer(WORDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = [
            CLIPTextModelWithProjection(_text_config(tokenizer, width)) for width in (16, 32)
        ]
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=16,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        # SD3's autoencoder has no convolutions between the posterior and the latents
        vae = _vae(16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def spine(tiny_model_dir, tmp_path_factory) -> Spine:
    """Runs the main job on the tiny model; class images and latents are shared by a session."""
    return Spine(tiny_model_dir, tmp_path_factory.mktemp("spine"))


@pytest.fixture(scope="session")
def one_step(spine: Spine, tmp_path_factory) -> Path:
    """A run of one step without prior preservation, which tests copy and go on with."""
    return spine.run(tmp_path_factory.mktemp("one") / "run", "max_steps=1", "ppl=false")


@pytest.fixture(scope="session")
def sd3_spine(tiny_sd3_model_dir, tmp_path_factory) -> Spine:
    """Runs the main job on the tiny SD3, with three zeros in the place of T5."""
    own = ("model=sd35_medium", "model.max_sequence_length=3")
    return Spine(tiny_sd3_model_dir, tmp_path_factory.mktemp("sd3_spine"), own)


@pytest.fixture(scope="session")
def tiny_flux2_model_dir(tmp_path_factory) -> Path:
    """Both kinds of blocks, a batch norm with statistics, and a Qwen3 as deep as is read of it."""
    folder, width = tmp_path_factory.mktemp("tiny_flux2"), 8
    tokenizer = _qwen_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=28,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=4,
                tie_word_embeddings=True,
            )
        )
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * width,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[8, 16],
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
    pipeline = Flux2KleinPipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def flux2_spine(tiny_flux2_model_dir, tmp_path_factory) -> Spine:
    """Runs the main job on the tiny FLUX.2 klein."""
    own = ("model=flux2_klein", "model.max_sequence_length=64")
    return Spine(tiny_flux2_model_dir, tmp_path_factory.mktemp("flux2_spine"), own)


QWEN_WORDS = ("photo", "cat", "dog", "in", "on", "red", "toy", "beach", "qzv", "frogs")


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Every byte a token, a few words by frequency, and Qwen3's chat as far as a prompt goes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    # a word behind a space, whose letter is Ġ, grows by one letter in each merge
    merges = {("Ġ" + word[:n], word[n]): None for word in QWEN_WORDS for n in range(len(word))}
    tokens = [*letters, *("".join(pair) for pair in merges), *marks]
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[*merges]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="session")
def encoders_dir(tmp_path_factory) -> Path:
    return pocket_encoders(tmp_path_factory.mktemp("pocket_encoders"))


@pytest.fixture(scope="session")
def scored(spine: Spine, encoders_dir: Path, tmp_path_factory) -> Path:
    """A run that ended with scores."""
    out = tmp_path_factory.mktemp("scored") / "run"
    more = (
        "evaluation=quick",
        "evaluation.class_images=3",
        f"evaluation.encoders_dir='{encoders_dir}'",
    )
    return spine.run(out, *more)


@pytest.fixture
def evaluate(spine: Spine, encoders_dir: Path):
    """`evaluate("run=DIR")`: what evaluate.py does, in this process."""
    from dreambooth.cli.scoring.evaluate import evaluate

    def call(*arguments: str) -> int:
        own = [f"cache_dir='{spine.cache}'", f"evaluation.encoders_dir='{encoders_dir}'"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", ["evaluation.class_images=3", *own, *arguments])
        return evaluate(cfg)

    return call
