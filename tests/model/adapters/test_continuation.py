"""A fine-tune that begins at a LoRA computes what that LoRA does, and refuses what cannot be."""

from __future__ import annotations

import pytest
import torch

from dreambooth.errors import UserError
from dreambooth.model.adapter_settings import AdapterSettings
from dreambooth.model.adapters.continuation import InitialAdapter
from dreambooth.model.adapters.lora_files import save_lora
from dreambooth.model.adapters.peft_files import save_peft
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import TrainableWeights

BOTH = Phase("adapter", "adapter")


def changed(settings: AdapterSettings, target: str = "peft.LoraConfig", **options):
    return AdapterSettings(target, {**settings.options, **options})


def test_training_begins_at_what_the_file_computes(
    trained_lora, lora, predict, train, tiny_model_dir, tmp_path
):
    """With another alpha, too: B takes the difference of the scales."""
    expected = predict(trained_lora.model)
    file = save_lora(trained_lora.model, tmp_path)
    model = StableDiffusion.from_pretrained(str(tiny_model_dir))
    settings = changed(lora, lora_alpha=2.0)
    initial = InitialAdapter(model, file)
    initial.check(model, {"unet", "text_encoder"}, settings)
    assert not any("lora" in name for name in model.state_dict())  # left as it was
    weights = TrainableWeights(model, 0, settings, initial=initial)
    weights.prepare(BOTH)
    torch.testing.assert_close(predict(model), expected, rtol=0, atol=1e-5)
    names = set(weights.parameters())
    assert names == set(trained_lora.parameters()) and all("lora_" in name for name in names)
    train(weights)
    assert (predict(model) - expected).abs().max() > 1e-4


OTHERS = {
    "dora": ("peft.LoraConfig", {"use_dora": True}),
    "loha": ("peft.LoHaConfig", {"r": 4, "alpha": 8}),
    "oft": ("peft.OFTConfig", {"oft_block_size": 8}),
    "boft": ("peft.BOFTConfig", {"boft_block_size": 4}),
}


@pytest.mark.parametrize(
    "kind",
    ["loha", *(pytest.param(k, marks=pytest.mark.thorough) for k in OTHERS if k != "loha")],
)
def test_adapters_of_other_kinds_begin_at_files_of_theirs(
    model, prepared, lora, predict, train, tiny_model_dir, tmp_path, kind
):
    targets = {"target_modules": lora.options["target_modules"]}
    target, options = OTHERS[kind]
    settings = AdapterSettings(target, {**targets, **options})
    train(prepared("adapter", "adapter", adapter=settings), steps=2)
    expected = predict(model)
    save_peft(model, tmp_path)
    fresh = StableDiffusion.from_pretrained(str(tiny_model_dir))
    assert (predict(fresh) - expected).abs().max() > 1e-3
    initial = InitialAdapter(fresh, tmp_path)
    both = {"unet", "text_encoder"}
    initial.check(fresh, both, settings)
    for other, words in (
        (AdapterSettings("peft.HRAConfig", {"r": 2, **targets}), "and this method trains HRA"),
        (
            AdapterSettings(target, {**targets, **options, **OTHER_SIZES[kind]}),
            f"has {next(iter(OTHER_SIZES[kind]))}=.*set method.adapter",
        ),
    ):
        with pytest.raises(UserError, match=words):
            initial.check(fresh, both, other)
    weights = TrainableWeights(fresh, 1, settings, initial=initial)
    weights.prepare(BOTH)
    torch.testing.assert_close(predict(fresh), expected, rtol=0, atol=1e-5)
    train(weights)
    assert (predict(fresh) - expected).abs().max() > 1e-4


OTHER_SIZES = {
    "dora": {"lora_alpha": 3},
    "loha": {"alpha": 4},
    "oft": {"oft_block_size": 4},
    "boft": {"boft_block_size": 8},
}


def test_a_file_that_a_method_cannot_begin_at_is_one_sentence(
    trained_lora, lora, tiny_model_dir, tmp_path
):
    model = StableDiffusion.from_pretrained(str(tiny_model_dir))
    initial = InitialAdapter(model, save_lora(trained_lora.model, tmp_path))
    both = {"unet", "text_encoder"}
    for networks, settings, words in (
        ({"unet"}, lora, "adapts the text_encoder, which this method gives no adapter"),
        (both, changed(lora, r=8), "has rank 4 and this method 8: set method.adapter.r=4"),
        (both, changed(lora, target_modules=["to_q", "q_proj"]), "this method does not: add it to"),
        (both, changed(lora, use_dora=True), "has use_dora=False and this method True"),
    ):
        with pytest.raises(UserError, match=words):
            initial.check(model, networks, settings)
        assert not any("lora" in name for name in model.state_dict())
