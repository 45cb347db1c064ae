"""The model's prediction before training stays what it was, whatever trains."""

from __future__ import annotations

import pytest
import torch

from dreambooth.model.adapter_weights import adapter_parameters
from dreambooth.model.base_prediction import BasePrediction
from dreambooth.model.phases import Phase
from dreambooth.model.trainable import TrainableWeights

PROMPTS = ("a cat", "a photo of dog")


@pytest.mark.parametrize(
    ("unet", "text_encoder"),
    [("full", "frozen"), ("full", "full"), ("adapter", "adapter"), ("frozen", "full")],
)
def test_training_changes_the_model_and_not_its_base(
    model, lora, predict, train, inputs, unet, text_encoder
):
    before, base = predict(model, PROMPTS).detach(), BasePrediction(model, PROMPTS, torch.float32)
    weights = TrainableWeights(model, 0, adapter=lora)
    weights.prepare(Phase(unet, text_encoder))
    base.keep()
    trains = set(weights.parameters())
    train(weights, steps=2)
    after = predict(model, PROMPTS).detach()
    assert (after - before).abs().max() > 1e-4
    assert torch.equal(base.predict(*inputs, base.embeddings(PROMPTS)), before)
    # asking changes nothing
    assert set(weights.parameters()) == trains
    assert torch.equal(predict(model, PROMPTS), after)


def test_an_adapter_of_an_earlier_phase_is_not_in_the_copy(model, lora, predict, train, inputs):
    before, base = predict(model, PROMPTS).detach(), BasePrediction(model, PROMPTS, torch.float32)
    weights = TrainableWeights(model, 0, adapter=lora)
    for unet in ("adapter", "full"):
        weights.prepare(Phase(unet, "frozen"))
        base.keep()
        train(weights)
        assert torch.equal(base.predict(*inputs, base.embeddings(PROMPTS)), before)
    assert any(
        p.abs().sum() > 0 for n, p in adapter_parameters(model.unet).items() if ".lora_B." in n
    )


def test_the_copy_has_the_dtype_of_frozen_networks(model, inputs, predict):
    base = BasePrediction(model, PROMPTS, torch.bfloat16)
    TrainableWeights(model, 0).prepare(Phase("full", "frozen"))
    base.keep()
    got = base.predict(*inputs, base.embeddings(PROMPTS))
    assert got.dtype == torch.bfloat16 and model.unet.dtype == torch.float32
    torch.testing.assert_close(got.float(), predict(model, PROMPTS), atol=0.05, rtol=0.05)
