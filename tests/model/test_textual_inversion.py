"""A new word starts as its initializer, trains alone, and goes to diffusers and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.textual_inversion import TokenSettings, add_token, token_ids, token_rows
from dreambooth.model.trainable import TrainableWeights

ONE, TWO = TokenSettings("<new>", "dog", 1), TokenSettings("<new>", "dog", 2)


def matrix(model: StableDiffusion) -> torch.Tensor:
    return model.text_encoder.get_input_embeddings().weight


@pytest.mark.parametrize("settings", [ONE, TWO])
def test_new_rows_start_as_the_initializer_and_others_are_kept(model, settings):
    before = matrix(model).detach().clone()
    size = len(model.tokenizer)
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    add_token(model, settings)
    assert torch.equal(random_state, torch.get_rng_state())
    assert token_ids(model, settings, "text_encoder") == list(
        range(size, size + settings.num_vectors)
    )
    after = matrix(model)
    assert torch.equal(after[:size], before) and len(after) == size + settings.num_vectors
    dog = model.tokenizer.convert_tokens_to_ids("dog</w>")
    assert torch.equal(after[size:], before[dog].expand(settings.num_vectors, -1))
    assert not after.requires_grad


def test_the_prompt_means_what_it_meant_with_the_initializer(model):
    add_token(model, ONE)
    new, known = model.embed(["a photo of <new> on grass", "a photo of dog on grass"])
    assert torch.equal(new.tokens, known.tokens)


def test_several_vectors_are_spelled_out_as_diffusers_does(model):
    add_token(model, TWO)
    with torch.no_grad():
        matrix(model)[token_ids(model, TWO, "text_encoder")] += torch.tensor([[1.0], [-1.0]])
    theirs, _ = model.pipeline().encode_prompt(["a <new> cat", "a dog"], "cpu", 1, False)
    assert torch.equal(model.embed(["a <new> cat", "a dog"]).tokens, theirs)
    ids = model.tokenizer("a <new> <new>_1 cat").input_ids[2:4]
    assert ids == token_ids(model, TWO, "text_encoder")


@pytest.mark.parametrize("settings", [ONE, TWO])
def test_other_rows_are_bit_identical_after_steps_with_weight_decay(
    model, prepared, train, settings
):
    weights = prepared("frozen", "token", token=settings)
    before, ids = matrix(model).detach().clone(), token_ids(model, settings, "text_encoder")
    train(weights, steps=3)
    after = matrix(model).detach()
    assert [i for i in range(len(after)) if not torch.equal(after[i], before[i])] == ids
    if settings is TWO:
        assert not torch.equal(after[ids[0]], after[ids[1]])


def test_without_the_restriction_weight_decay_moves_every_row(model, prepared, train):
    """What the restriction is for: the gradient's mask alone is not enough."""
    weights = prepared("frozen", "token", token=ONE)
    before = matrix(model).detach().clone()
    train(weights, restricted=False)
    assert (matrix(model) != before).any(1).all()


@pytest.mark.parametrize("settings", [ONE, TWO])
def test_a_long_initializer_starts_the_rows_at_the_mean_of_its_tokens(model, settings):
    settings = replace(settings, initializer="red dog pattern")
    before = matrix(model).detach().clone()
    ids = [model.tokenizer.convert_tokens_to_ids(f"{w}</w>") for w in ("red", "dog", "pattern")]
    add_token(model, settings)
    expected = (before[ids[0]] + before[ids[1]] + before[ids[2]]) / 3
    for row in token_rows(model, settings)["<new>"]:
        torch.testing.assert_close(row, expected)
    assert torch.equal(matrix(model)[: len(before)], before)


def test_a_word_of_several_pieces_is_an_initializer_too(model):
    """`subject=fabric`: the embedded model's tokenizer cuts "pattern" into five."""
    settings = TokenSettings("<new>", "unheard-of", 1)
    pieces = model.tokenizer.encode("unheard-of", add_special_tokens=False)
    assert len(pieces) == 9
    add_token(model, settings)
    torch.testing.assert_close(
        token_rows(model, settings)["<new>"][0], matrix(model)[pieces].mean(0)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TokenSettings("dog", "cat", 1), "method.token.token=dog: the tokenizer knows dog already"),
        (TokenSettings("<|endoftext|>", "cat", 1), "knows"),
        (TokenSettings("<new>", "<|endoftext|>", 1), "method.token.initializer=.* no word"),
    ],
)
def test_what_the_tokenizer_cannot_take_is_refused_before_a_phase(model, settings, message):
    size = len(model.tokenizer)
    for refuse in (add_token, lambda model, token: TrainableWeights(model, 0, token=token)):
        with pytest.raises(UserError, match=message):
            refuse(model, settings)
    assert len(model.tokenizer) == size == len(matrix(model))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("", "dog", 1), "method.token.token= must be a word"),
        (("my dog", "dog", 1), "method.token.token=my dog must be one word without spaces"),
        ((" <x>", "dog", 1), "method.token.token= <x> must be one word without spaces"),
        ((3, "dog", 1), "method.token.token=3 must be a word"),
        (("<x>", " ", 1), "method.token.initializer=  must be a word"),
        (("<x>", None, 1), "method.token.initializer=None must be a word"),
        (("<x>", "dog", 0), "method.token.num_vectors=0 must be a whole number, 1 or greater"),
        (("<x>", "dog", True), "method.token.num_vectors=True must be a whole number"),
        (("<x>", "dog", 1.5), "method.token.num_vectors=1.5 must be a whole number"),
    ],
)
def test_bad_settings_name_their_key(bad, message):
    with pytest.raises(UserError, match=message):
        TokenSettings(*bad)


def test_adding_twice_is_refused(model):
    add_token(model, ONE)
    with pytest.raises(UserError, match="knows <new> already"):
        add_token(model, ONE)


def test_new_tokens_are_exported(model, predict, tmp_path):
    add_token(model, TWO)
    with torch.no_grad():
        matrix(model)[token_ids(model, TWO, "text_encoder")] += torch.arange(32.0)
    model.export(tmp_path / "out")
    loaded = StableDiffusion.from_pretrained(str(tmp_path / "out"))
    ours = model.embed(["a <new> dog"]).tokens
    assert torch.equal(loaded.embed(["a <new> dog"]).tokens, ours)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    theirs, _ = pipeline.encode_prompt(["a <new> dog"], "cpu", 1, False)
    assert torch.equal(theirs, ours)


def test_a_token_added_after_a_bf16_phase_is_exact(model, prepared, lora):
    prepared("adapter", "frozen", adapter=lora, frozen_dtype=torch.bfloat16)
    dog = model.tokenizer.convert_tokens_to_ids("dog</w>")
    exact = model.masters["text_encoder"]["embeddings.token_embedding.weight"][dog].clone()
    add_token(model, ONE)
    assert torch.equal(token_rows(model, ONE)["<new>"][0], exact)
