"""The tokenizer: one token per word of the world, and the same ids everywhere."""

from __future__ import annotations

import hashlib
import json
import string
import subprocess
import sys

import pytest
from transformers import CLIPTokenizer

from dreambooth.pocket import world
from dreambooth.pocket.pretraining.tokenizer import CONTEXT_LENGTH, build_tokenizer, token_ids
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS
from spine import environment


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(world.vocabulary())


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
    assert again.model_max_length == CONTEXT_LENGTH
    padded = {"padding": "max_length", "truncation": True}
    assert again("a dog", **padded).input_ids == tokenizer("a dog", **padded).input_ids
    assert len(again("a dog", **padded).input_ids) == CONTEXT_LENGTH


def test_ids_are_padded_and_cut_to_the_context(tokenizer):
    ids = token_ids(tokenizer, ["a dog", " ".join(["dog"] * 50)])
    assert ids.shape == (2, CONTEXT_LENGTH) and ids.dtype == "int32"
    assert ids[0, :4].tolist() == tokenizer("a dog").input_ids
    assert set(ids[0, 4:].tolist()) == {tokenizer.pad_token_id}
    assert ids[1, -1] == tokenizer.eos_token_id


def test_ids_do_not_depend_on_the_order_of_words(tokenizer):
    again = build_tokenizer(reversed(world.vocabulary()))
    assert again.get_vocab() == tokenizer.get_vocab()


def test_every_caption_fits_the_context(tokenizer):
    def longest(words) -> str:
        return max(words, key=lambda w: len(w.split()))

    caption = f"an image of an orange spotted stuffed animal {longest(world.ACCESSORIES.values())}"
    text = f"{caption} {longest(world.CONTEXTS.values())}".lower()
    assert len(tokenizer(text).input_ids) <= CONTEXT_LENGTH - 1  # one rare word more fits


@pytest.mark.slow
def test_ids_are_the_same_in_every_process(tokenizer):
    code = (
        "from dreambooth.pocket.pretraining.tokenizer import build_tokenizer;"
        "from dreambooth.pocket.world.captions import vocabulary;"
        "import hashlib, json, sys;"
        "vocab = json.dumps(build_tokenizer(vocabulary()).get_vocab(), sort_keys=True);"
        "print('torch' in sys.modules, hashlib.sha256(vocab.encode()).hexdigest())"
    )
    env = {**environment(), "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    vocab = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    expected = ["False", hashlib.sha256(vocab.encode()).hexdigest()]  # and without torch
    assert run.stdout.split()[-2:] == expected, run.stderr


def test_ids_have_no_gaps(tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
