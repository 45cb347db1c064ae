"""The pocket model's parts, untrained, in Stable Diffusion's own classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth.pocket.world.captions import RARE_IDENTIFIERS

CONTEXT_LENGTH = 32  # tokens; the longest caption of the world takes 29


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer in which every given word and rare identifier is one token.

    Any other word falls back to pieces and bytes, so that every prompt tokenizes. The same words
    give the same ids in every process, whatever their order.
    """
    merges = _merges(set(words) | set(RARE_IDENTIFIERS))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    tokens += ["".join(pair) for pair in merges]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT_LENGTH)


def _merges(words: set[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is whole: the commonest pair first, of equals the first.

    The tokenizers library's trainer breaks ties by the order of a hash table, so that its ids
    differ from process to process.
    """
    split = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(words)]
    merges = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        split = [_join(parts, best) for parts in split]
    return merges


def _join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every neighbouring `pair` as one, from the left."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def build_vae(channels: list[int], latent_channels: int, norm_num_groups: int) -> AutoencoderKL:
    """AutoencoderKL, 64 px => 8x8 latents: each level but the last halves the side."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=list(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        # 4 channels a group or more at full resolution: fewer erase colour
        norm_num_groups=norm_num_groups,
        sample_size=64,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModel:
    """CLIPTextModel over the pocket vocabulary, `[N,32]` token ids => `[N,32,width]`."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 48,
            max_position_embeddings=CONTEXT_LENGTH,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(
    channels: list[int], latent_channels: int, text_width: int, heads: int, norm_num_groups: int
) -> UNet2DConditionModel:
    """UNet2DConditionModel on 8x8 latents with cross-attention at both levels."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=["CrossAttnDownBlock2D"] * len(channels),
        up_block_types=["CrossAttnUpBlock2D"] * len(channels),
        block_out_channels=list(channels),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=heads,  # diffusers' name for the number of heads
        norm_num_groups=norm_num_groups,
    )


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule; v-prediction, which a small model learns faster."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        prediction_type="v_prediction",
        steps_offset=1,
    )
