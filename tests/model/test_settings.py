"""A block of the configuration becomes settings, or one sentence names the key at fault."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.model.lora import LoRASettings
from dreambooth.model.settings import build

BLOCK = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["to_q", "to_v"]}


def test_a_whole_block_is_built():
    assert build(LoRASettings, "method.lora", BLOCK) == LoRASettings(4, 8, 0.0, ("to_q", "to_v"))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({**BLOCK, "ranks": 4}, "method.lora has no field ranks: did you mean method.lora.rank?"),
        ({**BLOCK, "xyz": 1}, "method.lora has no field xyz: use rank, alpha, dropout, targets."),
        ({"rank": 4, "dropout": 0.0}, "method.lora lacks alpha: set method.lora.alpha."),
        ({**BLOCK, "rank": 0}, "method.lora.rank=0 must be a whole number, 1 or greater."),
    ],
)
def test_what_is_no_such_block_is_refused(block, message):
    with pytest.raises(UserError) as caught:
        build(LoRASettings, "method.lora", block)
    assert str(caught.value) == message
