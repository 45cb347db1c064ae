"""Which prompt a number, a text or a slug means."""

from __future__ import annotations

import pytest

from dreambooth.data.prompts import fill, prompts
from dreambooth.evaluation.prompt_names import PromptName, find_prompt, number_of
from dreambooth.sampling.manifest import slug

OBJECT, LIVE = prompts("paper", live=False), prompts("paper", live=True)


@pytest.mark.parametrize(("templates", "noun"), [(LIVE, "dog"), (OBJECT, "stuffed animal")])
def test_every_prompt_is_found_in_every_form(templates, noun):
    for template in templates:
        plain = fill(template, None, noun)
        for text in (plain, slug(plain), plain.replace(" ", "_"), f"07_{slug(plain)}"):
            assert find_prompt(text, templates, noun) == PromptName(template), text
        for phrase in (f"sks {noun}", f"zwx {noun}"):
            text = fill(template, None, phrase)
            for form in (text, text.replace(" ", "-"), text.upper()):
                assert find_prompt(form, templates, noun) == PromptName(template, phrase), form
        text = fill(template, None, "<cat-toy>")  # a new token, without the class noun
        assert find_prompt(text, templates, noun) == PromptName(template, "cat toy")
        assert find_prompt(fill(template, None, "*"), templates, noun) == PromptName(template)
        bare = fill(template, None, "§").replace("§", "").replace("a ", "", 1)
        assert find_prompt(bare, templates, noun) == PromptName(template), bare


def test_the_class_prompt_and_what_is_no_prompt():
    for name in ("a dog", "a-dog", "class", "class_a-dog"):
        assert find_prompt(name, LIVE, "dog") == PromptName(None), name
    for name in ("a yellow sks dog", "a dog on a mountain", "a dog wearing", "", "in the"):
        assert find_prompt(name, LIVE, "dog") is None, name
    too_many = "a very old and quite small sks dog in the snow"
    assert find_prompt(too_many, LIVE, "dog") is None


def test_numbers():
    found = [number_of(name) for name in ("0", "007", "prompt_12", "Prompt-3", "p4", "prompts 5")]
    assert found == [0, 7, 12, 3, 4, 5]
    assert [number_of(name) for name in ("00_a-dog", "x3", "3.5", "")] == [None] * 4
