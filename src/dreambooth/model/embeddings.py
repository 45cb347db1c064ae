"""Prompts as a denoiser is conditioned on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Embeddings:
    """Prompts as a denoiser is conditioned on them, one row per prompt.

    `tokens` is the text encoders' output `[N,L,D]`; `extra` holds any further tensor `[N,...]` by
    name, such as pooled embeddings or time ids.

    >>> two = Embeddings(torch.tensor([[[1.0]], [[2.0]]]), {"pooled": torch.tensor([[3.0], [4.0]])})
    >>> len(two), two[[1, 1, 0]].tokens.flatten().tolist(), two[1].extra["pooled"].tolist()
    (2, [2.0, 2.0, 1.0], [4.0])
    >>> torch.equal(Embeddings.stack(list(two)).tokens, two.tokens)
    True
    """

    tokens: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[Embeddings]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | list[int]) -> Embeddings:
        """Select one prompt, without the axis of prompts, or the rows of a list of prompts."""
        return self._each(lambda tensor: tensor[index])

    def to(self, target: torch.device | torch.dtype | str) -> Embeddings:
        """Move or cast every tensor."""
        return self._each(lambda tensor: tensor.to(target))

    @classmethod
    def stack(cls, prompts: Sequence[Embeddings]) -> Embeddings:
        """Join single prompts, each without the axis of prompts, in their order."""
        extra = {name: torch.stack([p.extra[name] for p in prompts]) for name in prompts[0].extra}
        return cls(torch.stack([p.tokens for p in prompts]), extra)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Embeddings:
        extra = {name: function(tensor) for name, tensor in self.extra.items()}
        return Embeddings(function(self.tokens), extra)
