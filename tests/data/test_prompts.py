from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth.data.prompts import fill, prompts
from dreambooth.errors import UserError

IN_BOTH = [
    "a sks dog in the jungle",
    "a sks dog in the snow",
    "a sks dog on the beach",
    "a sks dog on a cobblestone street",
    "a sks dog on top of pink fabric",
    "a sks dog on top of a wooden floor",
    "a sks dog with a city in the background",
    "a sks dog with a mountain in the background",
    "a sks dog with a blue house in the background",
    "a sks dog on top of a purple rug in a forest",
]
OBJECT_ONLY = [
    "a sks dog with a wheat field in the background",
    "a sks dog with a tree and autumn leaves in the background",
    "a sks dog with the Eiffel Tower in the background",
    "a sks dog floating on top of water",
    "a sks dog floating in an ocean of milk",
    "a sks dog on top of green grass with sunflowers around it",
    "a sks dog on top of a mirror",
    "a sks dog on top of the sidewalk in a crowded street",
    "a sks dog on top of a dirt road",
    "a sks dog on top of a white rug",
]
LIVE_ONLY = [
    "a sks dog wearing a red hat",
    "a sks dog wearing a santa hat",
    "a sks dog wearing a rainbow scarf",
    "a sks dog wearing a black top hat and a monocle",
    "a sks dog in a chef outfit",
    "a sks dog in a firefighter outfit",
    "a sks dog in a police outfit",
    "a sks dog wearing pink glasses",
    "a sks dog wearing a yellow shirt",
    "a sks dog in a purple wizard outfit",
]
LAST = ["a red sks dog", "a purple sks dog", "a shiny sks dog", "a wet sks dog"]
LAST += ["a cube shaped sks dog"]
PAPER = {False: IN_BOTH + OBJECT_ONLY + LAST, True: IN_BOTH + LIVE_ONLY + LAST}


def filled(name: str, live: bool) -> list[str]:
    return [fill(template, "sks", "dog") for template in prompts(name, live)]


@pytest.mark.parametrize("live", [False, True])
def test_paper_prompts_are_the_25_typed_by_hand(live: bool) -> None:
    assert len(set(PAPER[live])) == 25
    assert filled("paper", live) == PAPER[live]


@pytest.mark.parametrize("live", [False, True])
def test_paper_prompts_are_the_datasets_file(live: bool) -> None:
    root = os.environ.get("DREAMBOOTH_PHOTOS")
    if not root or not (Path(root) / "prompts_and_classes.txt").is_file():
        pytest.skip("DREAMBOOTH_PHOTOS names no folder with prompts_and_classes.txt")
    text = (Path(root) / "prompts_and_classes.txt").read_text()
    lists = re.findall(r"prompt_list = \[(.*?)\]", text, re.DOTALL)
    assert len(lists) == 2  # objects first, then live subjects
    theirs = [line.format("sks", "dog") for line in re.findall(r"'(.*?)'\.format", lists[live])]
    assert len(theirs) == 25
    assert filled("paper", live) == theirs


@pytest.mark.parametrize(
    ("live", "places"),
    [
        (False, [0, 2, 8, 9, 12, 14, 21, 24]),
        (True, [0, 1, 2, 8, 9, 11, 15, 24]),
    ],
)
def test_cornell_prompts_are_these_of_the_papers(live: bool, places: list[int]) -> None:
    assert filled("cornell", live) == [PAPER[live][place] for place in places]


@pytest.mark.parametrize("live", [False, True])
def test_quick_prompts_are_four_of_the_papers(live: bool) -> None:
    assert len(set(prompts("quick", live))) == 4
    assert set(prompts("quick", live)) < set(prompts("paper", live))
    assert "a red sks dog" in filled("quick", live)


def test_class_only_text_loses_the_identifier_alone() -> None:
    assert fill("a red {subject}", None, "dog") == "a red dog"
    assert fill("a {subject} in the jungle", None, "stuffed animal") == (
        "a stuffed animal in the jungle"
    )
    assert fill("a {subject}", "sks", "") == "a sks"  # the study without a class noun


@pytest.mark.parametrize(
    "template",
    ["a {} in the jungle", "a {0} {1}", "a {name}", "a {subject", "a {{subject}}", "{subject!r}"],
)
def test_braces_left_over_are_refused(template: str) -> None:
    with pytest.raises(UserError, match="braces left over"):
        fill(template, "sks", "dog")


def test_braces_from_the_words_are_refused() -> None:
    with pytest.raises(UserError, match="braces left over"):
        fill("a {subject}", "{0}", "dog")


def test_no_subject_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="subject.class_noun"):
        fill("a {subject}", None, "")


def test_unknown_set_names_the_known() -> None:
    with pytest.raises(UserError, match="'papr': choose one of paper, cornell, recontext, quick"):
        prompts("papr", live=False)


def test_import_is_light() -> None:
    heavy = "print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    code = f"import sys, dreambooth.data.prompts; {heavy}"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr
