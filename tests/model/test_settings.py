"""A block of the configuration becomes settings, or one sentence names the key at fault."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.model.settings import build
from dreambooth.model.textual_inversion import TokenSettings

BLOCK = {"token": "<t>", "initializer": "dog", "num_vectors": 2}


def test_a_whole_block_is_built():
    assert build(TokenSettings, "method.token", BLOCK) == TokenSettings("<t>", "dog", 2)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {**BLOCK, "num_vector": 4},
            "method.token has no field num_vector: did you mean method.token.num_vectors?",
        ),
        ({"token": "<t>", "num_vectors": 1}, "method.token lacks initializer: set method.token."),
        ({**BLOCK, "num_vectors": 0}, "method.token.num_vectors=0 must be a whole number, 1 or"),
    ],
)
def test_what_is_no_such_block_is_refused(block, message):
    with pytest.raises(UserError) as caught:
        build(TokenSettings, "method.token", block)
    assert str(caught.value).startswith(message)
