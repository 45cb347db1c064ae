"""Embeddings keep their prompts together."""

from __future__ import annotations

import pytest
import torch

from dreambooth.model.embeddings import Embeddings


@pytest.fixture
def three() -> Embeddings:
    """Three prompts with two tensors each, as an architecture with pooled embeddings has."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 4, 2, generator=generator)
    return Embeddings(tokens, {"pooled": torch.randn(3, 5, generator=generator)})


def test_a_list_of_rows_selects_them_from_every_tensor(three):
    chosen = three[[2, 0, 2]]
    assert len(chosen) == 3
    assert torch.equal(chosen.tokens, three.tokens[[2, 0, 2]])
    assert torch.equal(chosen.extra["pooled"], three.extra["pooled"][[2, 0, 2]])


def test_single_prompts_stack_to_what_they_came_from(three):
    rows = list(three)
    assert [tuple(row.tokens.shape) for row in rows] == [(4, 2)] * 3
    again = Embeddings.stack(rows)
    assert torch.equal(again.tokens, three.tokens)
    assert torch.equal(again.extra["pooled"], three.extra["pooled"])


def test_every_tensor_is_cast(three):
    half = three.to(torch.float16)
    assert {half.tokens.dtype, half.extra["pooled"].dtype} == {torch.float16}


def test_a_repeated_prompt_gathers_the_gradient_of_every_use(three):
    tokens = three.tokens.clone().requires_grad_()
    Embeddings(tokens)[[0, 1, 0]].tokens.sum().backward()
    assert tokens.grad[:, 0, 0].tolist() == [2.0, 1.0, 0.0]
