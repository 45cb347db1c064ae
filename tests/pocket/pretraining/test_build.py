"""The pocket model's parts: tokens, sizes, normalisation."""

from __future__ import annotations

import hashlib
import json
import string
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import CLIPTokenizer

from dreambooth.cli.main import CONF
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import build
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS
from spine import environment

SHIPPED = OmegaConf.load(CONF / "pretrain.yaml")


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build.build_tokenizer(world.vocabulary())


def test_every_word_and_rare_identifier_is_one_token(tokenizer):
    words = [*world.vocabulary(), *RARE_IDENTIFIERS]
    rows = tokenizer(words).input_ids
    assert [len(row) for row in rows] == [3] * len(words)  # start, word, end
    assert len({row[1] for row in rows}) == len(words)
    assert "sks" in RARE_IDENTIFIERS
    assert not set(RARE_IDENTIFIERS) & set(world.vocabulary())


def test_a_sentence_is_as_long_as_its_words(tokenizer):
    text = "a photo of a sks stuffed animal with the eiffel tower in the background"
    assert len(tokenizer(text).input_ids) == len(text.split()) + 2


def test_every_prompt_tokenizes(tokenizer):
    prompts = [string.printable, "A Zebra's 42 hats: {wow}!", "supercalifragilistic", "café"]
    prompts += ["", *"~aZ0"]
    unknown = tokenizer.unk_token_id
    for prompt in prompts:
        ids = tokenizer(prompt).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert unknown in (tokenizer.eos_token_id, None) or unknown not in ids
        assert tokenizer.eos_token_id not in ids[1:-1]
        letters = "".join(tokenizer.decode(ids[1:-1]).split())
        assert letters == "".join(prompt.lower().split())


def test_case_does_not_matter(tokenizer):
    assert tokenizer("A Dog").input_ids == tokenizer("a dog").input_ids


def test_ids_survive_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    texts = [*world.vocabulary(), "a zebra on the moon!", ""]
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert again.model_max_length == build.CONTEXT_LENGTH
    padded = {"padding": "max_length", "truncation": True}
    assert again("a dog", **padded).input_ids == tokenizer("a dog", **padded).input_ids


def test_ids_do_not_depend_on_the_order_of_words(tokenizer):
    again = build.build_tokenizer(reversed(world.vocabulary()))
    assert again.get_vocab() == tokenizer.get_vocab()


def test_every_caption_fits_the_context(tokenizer):
    longest = lambda words: max(words, key=lambda w: len(w.split()))  # noqa: E731
    said = f"an image of an orange spotted stuffed animal {longest(world.ACCESSORIES.values())}"
    text = f"{said} {longest(world.CONTEXTS.values())}".lower()
    assert len(tokenizer(text).input_ids) <= build.CONTEXT_LENGTH - 1  # a rare word more fits


def test_latents_are_8_by_8():
    c = SHIPPED.vae
    vae = build.build_vae(list(c.channels), c.latent_channels, c.norm_num_groups).eval()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(2, 3, 64, 64)).latent_dist.mean
        assert latents.shape == (2, c.latent_channels, 8, 8)
        assert vae.decode(latents).sample.shape == (2, 3, 64, 64)


def test_full_resolution_keeps_four_channels_a_group():
    c = SHIPPED.vae
    vae = build.build_vae(list(c.channels), c.latent_channels, c.norm_num_groups).eval()
    seen = []

    def note(module: nn.GroupNorm, inputs: tuple) -> None:
        if inputs[0].shape[-1] == 64:
            seen.append(module.num_channels // module.num_groups)

    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        vae(torch.zeros(1, 3, 64, 64))
    assert len(seen) > 4 and min(seen) >= 4


def test_unet_and_text_encoder_fit_each_other(tokenizer):
    c = SHIPPED.denoiser
    text_encoder = build.build_text_encoder(tokenizer, 48, 1).eval()
    unet = build.build_unet([32, 64], 8, 48, c.heads, c.norm_num_groups).eval()
    ids = torch.tensor(tokenizer(["a dog"], padding="max_length").input_ids)
    with torch.no_grad():
        embeddings = text_encoder(ids)[0]
        assert embeddings.shape == (1, build.CONTEXT_LENGTH, 48)
        latents = torch.randn(1, 8, 8, 8)
        prediction = unet(latents, torch.tensor([3]), embeddings).sample
        other = unet(latents, torch.tensor([3]), embeddings + 1).sample
    assert prediction.shape == latents.shape
    assert not torch.allclose(prediction, other)  # the words reach the picture


def test_the_noise_schedule_is_stable_diffusions():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - betas, 0)
    scheduler = build.build_scheduler()
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-6)
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
def test_ids_are_the_same_in_every_process(tokenizer):
    code = (
        "from dreambooth.pocket.pretraining.build import build_tokenizer;"
        "from dreambooth.pocket.world.captions import vocabulary;"
        "import hashlib, json;"
        "vocab = json.dumps(build_tokenizer(vocabulary()).get_vocab(), sort_keys=True);"
        "print(hashlib.sha256(vocab.encode()).hexdigest())"
    )
    env = {**environment(), "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    vocab = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    assert run.stdout.split()[-1] == hashlib.sha256(vocab.encode()).hexdigest(), run.stderr


def test_ids_have_no_gaps(tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
