"""Stage `flow`: pretrain a flow-matching transformer on cached latents, with frozen text encoders.

The transformer is Stable Diffusion 3's, in small (Esser et al. 2024). Its text encoders are those
of the embedded model and of its metrics' CLIP, as they are.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from dreambooth.diffusion.loss import error_per_sample
from dreambooth.pocket import world
from dreambooth.pocket.embedded import FOLDER
from dreambooth.pocket.pretraining.captioned_latents import CaptionedLatents, captioned_latents
from dreambooth.pocket.pretraining.checkpoints import start_from
from dreambooth.pocket.pretraining.device import autocast, move
from dreambooth.pocket.pretraining.latents import vae_hash
from dreambooth.pocket.pretraining.spec import FlowSpec, PretrainSpec
from dreambooth.pocket.pretraining.text_pair import TextPair
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer
from dreambooth.pocket.pretraining.training_loop import train

TIMESTEPS = 1000  # the transformer is told 1000 x sigma


class PaddedAttention:
    """SD3's joint attention, in which the last context token stands for many equal ones.

    Where a pipeline has no T5, diffusers gives the transformer `max_sequence_length` vectors of
    zeros instead. They are equal and have no positions, so that they stay equal in every layer. One
    of them, with log n added to its attention scores, acts as n of them do, and costs 1/n. No fused
    kernel is used: in bfloat16 its backward is slow on a CPU.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        padding: Tensor,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Attend over image and context tokens `[N,L,D]`, `[N,M,D]`; `padding` is log n, `[N]`."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        own, context = hidden_states, encoder_hidden_states
        q = [split(attn.to_q(own)), split(attn.add_q_proj(context))]
        k = [split(attn.to_k(own)), split(attn.add_k_proj(context))]
        v = [split(attn.to_v(own)), split(attn.add_v_proj(context))]
        q = torch.cat([attn.norm_q(q[0]), attn.norm_added_q(q[1])], dim=2)
        k = torch.cat([attn.norm_k(k[0]), attn.norm_added_k(k[1])], dim=2)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        bias = torch.zeros(len(own), 1, 1, k.shape[2], dtype=scores.dtype, device=scores.device)
        bias[..., -1] = padding[:, None, None]
        weights = (scores + bias).softmax(-1)
        both = (weights.to(own.dtype) @ torch.cat(v, dim=2)).transpose(1, 2).flatten(2)
        image, text = both.split([own.shape[1], context.shape[1]], dim=1)
        text = text if attn.context_pre_only else attn.to_add_out(text)
        return attn.to_out[0](image), text


class FlowLoss:
    """Flow matching with logit-normal timesteps and caption dropout (Esser et al. 2024, section 3).

    Args:
        transformer: it predicts the velocity, noise - latents.
        texts: the frozen text encoders.
        examples: latents and captions.
    """

    def __init__(
        self,
        transformer: nn.Module,
        texts: TextPair,
        examples: CaptionedLatents,
        spec: PretrainSpec,
    ) -> None:
        self.transformer, self.texts, self.examples = transformer, texts, examples
        self.spec = spec

    def __call__(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute one batch's loss."""
        spec, n = self.spec, self.spec.flow.batch_size
        latents, ids = self.examples.draw(n, generator)
        noise = torch.randn(latents.shape, generator=generator)
        sigmas = torch.randn(n, generator=generator).sigmoid()
        # half of the batch without the zeros in T5's place, half with 1 to 256 of them
        count = torch.randint(1, 257, (n,), generator=generator).float()
        absent = torch.rand(n, generator=generator) < 0.5
        padding = count.log().masked_fill(absent, -math.inf)
        latents, ids, noise, sigmas, padding = (
            t.to(spec.device) for t in (latents, ids, noise, sigmas, padding)
        )
        mix = sigmas[:, None, None, None]
        with autocast(spec.device, spec.bf16):
            tokens, pooled = self.texts(ids)
            prediction = self.transformer(
                hidden_states=(1 - mix) * latents + mix * noise,
                encoder_hidden_states=nn.functional.pad(tokens, (0, 0, 0, 1)),
                pooled_projections=pooled,
                timestep=TIMESTEPS * sigmas,
                joint_attention_kwargs={"padding": padding},
                return_dict=False,
            )[0]
        return {"total": error_per_sample(prediction, noise - latents).mean()}


def build_transformer(own: FlowSpec, latent_channels: int, text: TextPair) -> SD3Transformer2DModel:
    """Build SD3Transformer2DModel on 8x8 latents in the configured sizes, untrained."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=own.patch_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=own.layers,
        attention_head_dim=own.width // own.heads,
        num_attention_heads=own.heads,
        joint_attention_dim=text.width,
        caption_projection_dim=own.width,
        pooled_projection_dim=text.pooled_width,
        pos_embed_max_size=8 // own.patch_size,
        qk_norm="rms_norm",
    )


def text_folder(spec: PretrainSpec) -> Path:
    """Return the folder of the first pipeline that has text encoders: `init`, `export_to`, ours."""
    folders = [folder for folder in (spec.init, spec.export_to) if folder is not None]
    whole = [f for f in folders if all((f / part).is_dir() for part in TextPair.parts)]
    return (*whole, FOLDER)[0]


def pretrain_flow(spec: PretrainSpec) -> None:
    """Train the transformer on the latents of the VAE in the cache."""
    own = spec.flow
    text, tokenizer = TextPair(text_folder(spec)), build_tokenizer(world.vocabulary())
    facts = {"vae": vae_hash(spec.cache / "vae"), "scenes": own.scenes, "text": text.hash}
    torch.manual_seed(spec.seed)
    transformer = build_transformer(own, spec.vae.latent_channels, text)
    if spec.init is not None:
        init = spec.init.with_name(f"{spec.init.name}_flow")
        part = f"transformer/{SAFETENSORS_WEIGHTS_NAME}"
        facts["init"] = start_from(init, part, transformer, spec.cache / "flow.pt")
    transformer.set_attn_processor(PaddedAttention())  # pyright: ignore[reportArgumentType]
    for part in (text, transformer):
        move(part, spec.device)
    if torch.device(spec.device).type == "cpu":  # as in stage `denoiser`
        for encoder in (text.first, text.second):
            encoder.set_attn_implementation("eager")
    examples = captioned_latents(spec, own, tokenizer)
    loss = FlowLoss(transformer, text, examples, spec)
    train("flow", transformer, loss, spec.cache, spec.training(own), facts)
