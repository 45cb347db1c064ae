"""What a run draws is what its file holds: rounded values, and only those that are exported."""

from __future__ import annotations

import torch

from dreambooth.model.rounding import round_token
from dreambooth.model.textual_inversion import TokenSettings, add_token, token_ids, token_rows


def test_a_token_is_rounded_and_no_other_word(model):
    settings = TokenSettings("<new>", "dog", 2)
    add_token(model, settings)
    weight = model.text_encoder.get_input_embeddings().weight
    ids = token_ids(model, settings, "text_encoder")
    with torch.no_grad():
        weight[ids] += 1e-5
    before = weight.detach().clone()
    round_token(model, settings, torch.float16)
    (rows,) = token_rows(model, settings).values()
    assert torch.equal(rows, before[ids].half().float()) and not torch.equal(rows, before[ids])
    others = [i for i in range(len(weight)) if i not in ids]
    assert torch.equal(weight[others], before[others])
    round_token(model, None, torch.float16)  # a run without a token
