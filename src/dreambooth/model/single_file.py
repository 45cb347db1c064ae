"""A whole model as one file: the checkpoint that Stable Diffusion was published as.

The names are those of diffusers' `scripts/convert_diffusers_to_original_stable_diffusion.py`, for
any number of blocks: `from_single_file` of diffusers, ComfyUI and AUTOMATIC1111 read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dreambooth.files import atomic
from dreambooth.model.interface import BaseModel
from dreambooth.model.pipeline_export import exact_state
from dreambooth.weights_files import sort_header

# diffusers' names of a part => the original ones
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",  # of Stable Diffusion XL
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
V2_WIDTH = 1024  # of the text encoder of Stable Diffusion 2, which is OpenCLIP's


def save_single_file(
    model: BaseModel, file: str | Path, dtype: torch.dtype, metadata: Mapping[str, str]
) -> None:
    """Write U-Net, VAE and text encoders into one safetensors file in `dtype`, atomically.

    Rows of new tokens are left out, for programs expect the published vocabulary: they belong into
    a file of their own. Adapters that are not merged are left out too.
    """
    config = json.loads((model.source.folder / "text_encoder" / "config.json").read_text())
    state = single_file_state(
        {name: exact_state(model, name, dtype) for name in model.layout.networks},
        model.network("unet").config["layers_per_block"],
        len(model.network("vae").config["block_out_channels"]),
        config["hidden_size"] == V2_WIDTH,
    )
    embedding = next(name for name in state if name.endswith("token_embedding.weight"))
    state[embedding] = state[embedding][: config["vocab_size"]]
    contiguous = {name: x.detach().cpu().contiguous() for name, x in state.items()}
    with atomic(file) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt"})
        sort_header(temporary, metadata)


def single_file_state(
    networks: Mapping[str, Mapping[str, Tensor]],
    layers_per_block: int,
    vae_blocks: int,
    is_open_clip: bool,
) -> dict[str, Tensor]:
    """Rename the tensors of `unet`, `vae` and `text_encoder` as in the original checkpoint.

    With a `text_encoder_2` it is that of Stable Diffusion XL, whose second encoder is OpenCLIP's.

    Args:
        layers_per_block: of the U-Net's down blocks.
        vae_blocks: number of the VAE's down blocks, and of its up blocks.
        is_open_clip: the first text encoder is OpenCLIP's, which joins queries, keys and values.
    """
    state: dict[str, Tensor] = {}
    unet = networks["unet"]
    with_attention = {name.split(".attentions.")[0] for name in unet if ".attentions." in name}
    for name, tensor in unet.items():
        own = _unet_name(name, layers_per_block, with_attention)
        state[f"model.diffusion_model.{own}"] = tensor
    for name, tensor in networks["vae"].items():
        own = _vae_name(name, vae_blocks)
        if ".attn_1." in own and tensor.dim() == 2:
            tensor = tensor[:, :, None, None]  # a convolution of one pixel
        state[f"first_stage_model.{own}"] = tensor
    is_xl = "text_encoder_2" in networks
    first = "conditioner.embedders.0" if is_xl else "cond_stage_model"
    if is_open_clip:
        state |= _open_clip(f"{first}.model", networks["text_encoder"])
    else:
        text = networks["text_encoder"].items()
        start = f"{first}.transformer.text_model."
        state |= {start + name.removeprefix("text_model."): x for name, x in text}
    if is_xl:
        state |= _open_clip("conditioner.embedders.1.model", networks["text_encoder_2"])
    return state


def _unet_name(name: str, layers: int, with_attention: set[str]) -> str:
    stem, end = name.rsplit(".", 1)
    if stem in UNET_ENDS:
        return f"{UNET_ENDS[stem]}.{end}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, number, rest = match[1], int(match[2]), match[3]
        place = 2 * number if kind == "resnets" else 2 * number + 1
        return f"middle_block.{place}.{_inner(kind, rest)}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    assert match is not None, name
    side, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    first = block * (layers + 1) + number
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        place = 2 if f"up_blocks.{block}" in with_attention else 1
        return f"output_blocks.{block * (layers + 1) + layers}.{place}.{rest}"
    place = 0 if kind == "resnets" else 1
    where = f"input_blocks.{first + 1}" if side == "down" else f"output_blocks.{first}"
    return f"{where}.{place}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    layer, end = rest.rsplit(".", 1)
    return f"{RESNET[layer]}.{end}"


def _vae_name(name: str, blocks: int) -> str:
    name = name.replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if ".mid_block.attentions.0." in name:
        side, rest = name.split(".mid_block.attentions.0.")
        layer, end = rest.rsplit(".", 1)
        return f"{side}.mid.attn_1.{VAE_ATTENTION[layer]}.{end}"
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)

    def reverse(match: re.Match) -> str:
        return f"up.{blocks - 1 - int(match[1])}.{'block.' if 'res' in match[2] else 'upsample.'}"

    name = re.sub(r"up_blocks\.(\d+)\.(resnets\.|upsamplers\.0\.)", reverse, name)
    return name.replace("conv_shortcut", "nin_shortcut")


def _open_clip(start: str, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a text encoder's tensors as OpenCLIP does, queries, keys and values joined."""
    text = {name.removeprefix("text_model."): tensor for name, tensor in network.items()}
    state: dict[str, Tensor] = {}
    for name, tensor in text.items():
        match = re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
        if match is None:
            if name in OPEN_CLIP_ENDS:  # position ids are no weights
                state[OPEN_CLIP_ENDS[name]] = tensor
            elif name == "text_projection.weight":
                state["text_projection"] = tensor.T
            continue
        layer, part, end = match.groups()
        block = f"transformer.resblocks.{layer}"
        if part in OPEN_CLIP:
            state[f"{block}.{OPEN_CLIP[part]}.{end}"] = tensor
        elif part == "self_attn.q_proj":
            each = [text[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            state[f"{block}.attn.in_proj_{end}"] = torch.cat(each)
    return {f"{start}.{name}": tensor for name, tensor in state.items()}
