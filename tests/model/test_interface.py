"""A subclass is all that a new architecture needs."""

from __future__ import annotations

import doctest

import pytest

from dreambooth.model import embeddings, settings, textual_inversion
from dreambooth.model.interface import BaseModel
from dreambooth.model.phases import Phase


def test_networks_are_named_in_one_place(model):
    assert set(model.layout.networks) == {model.autoencoder, *model.trainable_networks}
    assert all(isinstance(model.network(n), c) for n, c in model.layout.networks.items())
    assert Phase("full", "frozen").kinds(model) == {"unet": "full", "text_encoder": "frozen"}


def test_a_model_must_offer_the_whole_interface():
    class Half(BaseModel):
        def embed(self, prompts):
            """Only this."""

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_the_trained_text_encoder_is_noticed(model):
    assert not model.trains_text
    model.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    assert model.trains_text


@pytest.mark.parametrize("module", [embeddings, settings, textual_inversion])
def test_examples_hold(module):
    failed, attempted = doctest.testmod(module)
    assert attempted > 0 and failed == 0
