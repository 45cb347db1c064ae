"""Batches of cached latents with the token ids of one caption each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.caption_tokens import caption_shards
from dreambooth.pocket.pretraining.latents import latent_shards
from dreambooth.pocket.pretraining.spec import DenoiserSpec, FlowSpec, PretrainSpec
from dreambooth.pocket.pretraining.tokenizer import token_ids


class CaptionedLatents:
    """Draws examples from shards of latents and of their captions' token ids.

    Args:
        latents, captions: the shards' files.
        empty: token ids `[1,32]` of the empty caption.
        dropout: share of captions that are replaced by the empty one.
    """

    def __init__(
        self, latents: list[Path], captions: list[Path], empty: Tensor, dropout: float
    ) -> None:
        self.latents, self.captions = shards.open_shards(latents), shards.open_shards(captions)
        self.empty, self.dropout = empty, dropout

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `n` latents `[N,C,8,8]` and for each the token ids of one caption `[N,32]`."""
        total = len(self.latents) * shards.SHARD
        picked = torch.randint(total, (n,), generator=generator)
        which = torch.randint(self.captions[0].shape[1], (n,), generator=generator)
        latents = torch.from_numpy(shards.pick(self.latents, picked)).float()
        ids = torch.from_numpy(shards.pick(self.captions, picked))[torch.arange(n), which]
        dropped = torch.rand(n, generator=generator) < self.dropout
        return latents, torch.where(dropped[:, None], self.empty, ids).long()


def captioned_latents(
    spec: PretrainSpec, own: DenoiserSpec | FlowSpec, tokenizer: CLIPTokenizer
) -> CaptionedLatents:
    """Open the latents of a stage's scenes and their captions, making the captions if missing."""
    latents = latent_shards(spec, own.scenes)
    captions = caption_shards(
        spec.cache,
        tokenizer,
        count=len(latents),
        each=spec.tokens_per_scene,
        identifier_share=own.identifier_share,
    )
    empty = torch.tensor(token_ids(tokenizer, [""]))
    return CaptionedLatents(latents, captions, empty, own.caption_dropout)
