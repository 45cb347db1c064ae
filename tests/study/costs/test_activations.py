"""The bytes that are alive in a step, against a sum by hand; test_step_memory.py has real steps."""

from __future__ import annotations

import torch

from dreambooth.study.costs.activations import Live


def test_live_bytes_of_a_step_are_those_of_a_sum_by_hand():
    """x [4,8] -> h [4,16] -> relu -> y [4,2] -> mean: 128 + 256 + 256 + 32 + 4 bytes forward."""
    with torch.device("meta"):
        first, second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)
    first.requires_grad_(False)
    live = Live([*first.parameters(), *second.parameters()])
    with torch.device("meta"), live.watched():
        x = torch.empty(4, 8)
        h = first(x)
        a = torch.relu(h)
        y = second(a)
        y.mean()
        assert live.now == live.peak - 4 == 128 + 256 + 256 + 32
        del h
        assert live.now == 128 + 256 + 32
    assert live.peak == 128 + 256 + 256 + 32 + 4
