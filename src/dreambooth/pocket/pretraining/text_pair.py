"""The two frozen text encoders that the flow-matching transformer is conditioned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth.files import cache_key, file_hash
from dreambooth.pocket.pretraining.flow_parts import text_encoders


class TextPair(nn.Module):
    """Both text encoders of a folder, read as Stable Diffusion 3's pipeline reads them."""

    parts = "text_encoder", "encoders/clip"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.first, self.second = text_encoders(folder)
        files = {part: file_hash(folder / part / "model.safetensors") for part in self.parts}
        self.hash = cache_key(**files)
        both: list[Any] = [self.first, self.second]
        self.width = sum(encoder.config.hidden_size for encoder in both)
        self.pooled_width = sum(encoder.config.projection_dim for encoder in both)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ids `[N,32]` => the states before the last layer `[N,32,D]`, pooled `[N,P]`."""
        both = [encoder(ids, output_hidden_states=True) for encoder in (self.first, self.second)]
        tokens = torch.cat([each.hidden_states[-2] for each in both], dim=-1)
        return tokens, torch.cat([each.text_embeds for each in both], dim=-1)
