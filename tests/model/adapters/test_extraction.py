"""What SVD extracts: exact at full rank, the best of each rank, and what no LoRA holds."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dreambooth.errors import UserError
from dreambooth.model.adapters.extraction import extract_lora, total_error, write_extracted
from dreambooth.model.adapters.merging import merge_file
from dreambooth.model.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def tuned(tiny_model_dir):
    """A model of which every weight but the autoencoder's has changed."""
    model = StableDiffusion.from_pretrained(str(tiny_model_dir))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in model.trainable_networks:
            for parameter in model.network(name).parameters():
                change = torch.randn(parameter.shape, generator=generator)
                parameter += 0.1 * change * parameter.std(correction=0)
    return model


def extracted(base, tuned, rank, **options):
    pairs = {n: (base.base_state(n), tuned.base_state(n)) for n in base.trainable_networks}
    return {name: extract_lora(*states, rank, **options) for name, states in pairs.items()}


def test_a_cut_svd_is_the_best_of_its_rank():
    """Eckart and Young: the error is the norm of the singular values that are cut."""
    generator = torch.Generator().manual_seed(0)
    base = {"a.weight": torch.randn(6, 8, generator=generator)}
    base |= {"c.weight": torch.randn(4, 3, 3, 3, generator=generator), "a.bias": torch.zeros(6)}
    base |= {"token_embedding.weight": torch.ones(5, 8), "same.weight": torch.rand(2, 2)}
    tuned = {n: x + torch.randn(x.shape, generator=generator) for n, x in base.items()}
    tuned["same.weight"] = base["same.weight"].half()  # only saved in half precision
    tuned["token_embedding.weight"] = torch.ones(7, 8)  # two new words, no other change
    found = extract_lora(base, tuned, 2)
    assert [error.layer for error in found.layers] == ["a", "c"]
    assert found.left_out.keys() == {"a.bias"}
    for error in found.layers:
        change = (tuned[f"{error.layer}.weight"] - base[f"{error.layer}.weight"]).flatten(1)
        a, b = (found.state[f"{error.layer}.lora_{side}.weight"] for side in "AB")
        left = (change - b.flatten(1) @ a.flatten(1)).norm().item()
        cut = torch.linalg.svdvals(change)[2:].norm().item()
        assert error.left == pytest.approx(cut, rel=1e-4) == pytest.approx(left, rel=1e-4)
    whole = extract_lora(base, tuned, 8)  # more than either side: padded with zeros
    assert total_error([whole]) < 1e-5 and whole.state["a.lora_A.weight"].shape == (8, 8)
    assert not whole.state["a.lora_A.weight"][6:].any()
    assert total_error([whole], with_left_out=True) > 0.1
    only = extract_lora(base, tuned, 2, targets=["c"])
    assert [error.layer for error in only.layers] == ["c"]
    assert only.left_out.keys() == {"a.bias", "a.weight"}


def test_the_file_loads_in_diffusers_and_here(tiny_model_dir, tuned, tmp_path, predict, inputs):
    """At full rank the U-Net's linear layers and convolutions are the fine-tune's own."""
    base, fresh = (StableDiffusion.from_pretrained(str(tiny_model_dir)) for _ in range(2))
    file = write_extracted(base, extracted(base, tuned, 128), tmp_path)
    merge_file(fresh, file)
    for name in fresh.trainable_networks:
        ours, theirs = fresh.base_state(name), tuned.base_state(name)
        layers = {n for n in ours if ours[n].dim() > 1 and not n.endswith("_embedding.weight")}
        for layer in layers:
            torch.testing.assert_close(ours[layer], theirs[layer], rtol=0, atol=1e-5)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model_dir, safety_checker=None)
    pipeline.load_lora_weights(tmp_path)
    embeddings, _ = pipeline.encode_prompt(["a photo of sks dog", "a cat"], "cpu", 1, False)
    latents, timesteps = inputs
    theirs = pipeline.unet(latents, timesteps, embeddings).sample
    torch.testing.assert_close(theirs, predict(fresh), rtol=0, atol=1e-4)


def test_other_models_and_ranks_are_refused(tuned):
    state = tuned.base_state("unet")
    for rank in (0, True, 1.5):
        with pytest.raises(UserError, match=f"rank={rank} is not usable"):
            extract_lora(state, state, rank)
    other = {**state, "conv_in.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="differ in conv_in.weight"):
        extract_lora(state, other, 2)
