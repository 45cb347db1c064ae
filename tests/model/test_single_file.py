"""The original checkpoint's names are those that diffusers' own reader turns back into ours."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    infer_diffusers_model_type,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreambooth.model.single_file import single_file_state

# as in stable-diffusion-v1-5/v1-5-pruned-emaonly.safetensors
PUBLISHED = (
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    "model.diffusion_model.input_blocks.3.0.op.weight",
    "model.diffusion_model.middle_block.1.proj_in.weight",
    "model.diffusion_model.output_blocks.2.1.conv.weight",
    "model.diffusion_model.output_blocks.5.2.conv.weight",
    "model.diffusion_model.output_blocks.11.0.skip_connection.weight",
    "model.diffusion_model.out.2.bias",
    "first_stage_model.encoder.down.2.downsample.conv.weight",
    "first_stage_model.decoder.up.3.upsample.conv.weight",
    "first_stage_model.decoder.mid.attn_1.proj_out.weight",
    "first_stage_model.quant_conv.weight",
    "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight",
)


def shapes(state) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def networks(width: int, layers: int) -> dict[str, torch.nn.Module]:
    """Stable Diffusion's architecture, with no memory for its weights."""
    text = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4}
    blocks |= {"up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(cross_attention_dim=width),
            "vae": AutoencoderKL(
                block_out_channels=[128, 256, 512, 512], layers_per_block=2, **blocks
            ),
            "text_encoder": CLIPTextModel(text),
        }


def test_every_name_of_stable_diffusion_1_is_read_back():
    parts = networks(768, 12)
    states = {name: module.state_dict() for name, module in parts.items()}
    single = single_file_state(states, 2, 4, is_open_clip=False)
    assert len(single) == sum(len(state) for state in states.values())
    assert set(PUBLISHED) <= single.keys()
    assert single["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert infer_diffusers_model_type(single) == "v1"
    unet = convert_ldm_unet_checkpoint(dict(single), parts["unet"].config)
    assert shapes(unet) == shapes(states["unet"])
    assert all(unet[name] is tensor for name, tensor in states["unet"].items())
    vae = convert_ldm_vae_checkpoint(dict(single), parts["vae"].config)
    assert shapes(vae) == shapes(states["vae"])


def test_the_text_encoder_of_stable_diffusion_2_is_open_clip_s():
    parts = networks(1024, 2)
    states = {name: module.state_dict() for name, module in parts.items()}
    generator = torch.Generator().manual_seed(0)
    text = {n: torch.rand(x.shape, generator=generator) for n, x in states["text_encoder"].items()}
    single = single_file_state({**states, "text_encoder": text}, 2, 4, is_open_clip=True)
    assert "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight" in single
    assert infer_diffusers_model_type(single) == "v2"
    read = convert_open_clip_checkpoint(parts["text_encoder"], dict(single))
    named = {n if n.startswith("text_model.") else f"text_model.{n}": x for n, x in text.items()}
    assert read.keys() == named.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in named.items())


def test_stable_diffusion_xl_has_two_encoders_and_label_embeddings():
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    sizes |= {"projection_class_embeddings_input_dim": 2816, "use_linear_projection": True}
    down = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    config = CLIPTextConfig(
        hidden_size=64, num_hidden_layers=10, num_attention_heads=2, projection_dim=64
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=[320, 640, 1280],
            down_block_types=down,
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            transformer_layers_per_block=[1, 2, 10],
            cross_attention_dim=2048,
            **sizes,
        )
    second = CLIPTextModelWithProjection(config)
    parts = {**networks(768, 2), "unet": unet, "text_encoder_2": second}
    states = {name: module.state_dict() for name, module in parts.items()}
    single = single_file_state(states, 2, 4, is_open_clip=False)
    assert infer_diffusers_model_type(single) == "xl_base"
    assert shapes(convert_ldm_unet_checkpoint(dict(single), unet.config)) == shapes(states["unet"])
    start = "conditioner.embedders.0.transformer.text_model."
    assert sum(name.startswith(start) for name in single) == len(states["text_encoder"])
    read = convert_open_clip_checkpoint(second, dict(single), "conditioner.embedders.1.model.")
    assert read.keys() == states["text_encoder_2"].keys()
    assert all(torch.equal(read[name], x) for name, x in states["text_encoder_2"].items())
