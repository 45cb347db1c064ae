"""Patterns of file names, those of published benchmarks among them."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.evaluation.layout import Layout, Place

SUBJECTS = ["backpack", "backpack_dog", "bear_plushie", "cat", "cat2", "dog"]
PUBLISHED = {  # by whose code the files are written
    "the default": (
        "{subject}/{prompt}/{seed}.png",
        "dog/a sks dog in the snow/3.jpg",
        Place("dog", "a sks dog in the snow", 3),
    ),
    "Kosmos-G": (
        "{subject}+*+{seed}+{prompt}.png",
        "backpack_dog+01+2975+a backpack in the jungle.png",
        Place("backpack_dog", "a backpack in the jungle", 2975),
    ),
    "DreamMatcher": (
        "{subject}/output/ours/prompt_{prompt_index}/{seed}.jpg",
        "cat2/output/ours/prompt_12/3.jpg",
        Place("cat2", "12", 3),
    ),
    "grantrinehimer": (
        "{subject}/{prompt_index}_{seed}_*.png",
        "backpack/007_1_20250501_050130.png",
        Place("backpack", "007", 1),
    ),
    "OFT": (
        "{subject}-{prompt_index}/*/image_{seed}.png",
        "cat2-24/6/image_0.png",
        Place("cat2", "24", 0),
    ),
    "DreamBench++": (
        "{subject}/{prompt_index}_{seed}.jpg",
        "dog/8_0.jpg",
        Place("dog", "8", 0),
    ),
}


@pytest.mark.parametrize("source", PUBLISHED)
def test_layouts_of_published_code(source):
    pattern, file, place = PUBLISHED[source]
    assert Layout(pattern, SUBJECTS).place(file) == place
    assert Layout(pattern, SUBJECTS).place("elsewhere/" + file) is None


def test_known_names_decide_where_a_name_divides():
    layout = Layout("{subject}_{prompt}_{seed}.png", SUBJECTS)
    assert layout.place("backpack_dog_in_the_snow_4.png") == Place("backpack_dog", "in_the_snow", 4)
    assert layout.place("backpack_in_the_snow_4.png") == Place("backpack", "in_the_snow", 4)
    assert layout.place("Bear-Plushie_7_4.png") == Place("bear_plushie", "7", 4)
    assert layout.place("unicorn_7_4.png") == Place("unicorn", "7", 4)  # for a message
    assert layout.place("dog_7_4.txt") is None and layout.place("dog_7_x.png") is None


def test_a_layout_without_a_seed_has_none():
    assert Layout("{subject}/{prompt}", SUBJECTS).place("dog/red.webp") == Place("dog", "red", -1)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{subject}/{seed}.png", "where the subject and the prompt stand"),
        ("{prompt}/{seed}.png", "where the subject and the prompt stand"),
        ("{subject}/{prompt}/{prompt_index}.png", "one of {prompt} and {prompt_index}"),
        ("{subject}/{prompt}/{k}.png", "the field {k}, which is none of subject, prompt"),
        ("{subject}/{prompt}/{subject}_{seed}.png", "the field {subject}, twice"),
    ],
)
def test_patterns_that_cannot_be_used(pattern, words):
    with pytest.raises(UserError) as caught:
        Layout(pattern, SUBJECTS)
    assert words in str(caught.value) and pattern in str(caught.value)
