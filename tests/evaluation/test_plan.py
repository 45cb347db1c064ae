"""What an evaluation draws: its settings are checked, and its images listed."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from dreambooth.data.prompts import SubjectWords
from dreambooth.errors import UserError
from dreambooth.evaluation.plan import EvaluationSpec

METRICS = ("dino", "clip_i", "clip_t", "pres", "div")
SPEC = EvaluationSpec("quick", "quick", 2, 3, 1000, ("cat", "dog"), METRICS, "pocket", None)
DOG = SubjectWords("sks dog", "dog", "a photo of a dog", live=True)
BOWL = SubjectWords("sks bowl", "bowl", "a bowl", live=False)


def test_every_prompt_has_the_first_seeds_and_the_class_prompt_its_own():
    items = SPEC.items(DOG)
    subject = [item for item in items if item.set == "subject"]
    assert [item.seed for item in subject] == [0, 1] * 4
    prompts = ["a sks dog in the jungle", "a sks dog on the beach", "a sks dog in the snow"]
    prompts.append("a red sks dog")
    assert list(dict.fromkeys(item.prompt for item in subject)) == prompts
    assert [item.class_only for item in subject] == [
        item.prompt.replace("sks ", "") for item in subject
    ]
    prior = items[len(subject) :]
    assert {(i.set, i.prompt, i.class_only) for i in prior} == {("class", *[DOG.class_prompt] * 2)}
    assert [item.seed for item in prior] == [1000, 1001, 1002]
    assert len({item.file for item in items}) == len(items) == 11


def test_live_subjects_and_objects_have_their_own_prompts():
    paper = replace(SPEC, prompts="paper")
    for words, own in (
        (DOG, "a sks dog wearing a red hat"),
        (BOWL, "a sks bowl on top of a mirror"),
    ):
        prompts = {item.prompt for item in paper.items(words)}
        assert own in prompts and len(prompts) == 25 + 1


def test_other_classes_have_images_where_kernel_distances_are_asked_for():
    assert SPEC.base_prompts(DOG) == SPEC.other_prompts(DOG) == []
    kernel = replace(SPEC, metrics=(*METRICS, "kernel"))
    assert kernel.base_prompts(DOG) == ["a photo of a dog", "a cat"]
    assert kernel.base_prompts(BOWL) == ["a bowl", "a cat", "a dog"]
    items = kernel.items(BOWL)
    assert items[: len(SPEC.items(BOWL))] == SPEC.items(BOWL)
    others = [(i.set, i.prompt, i.seed) for i in items[len(SPEC.items(BOWL)) :]]
    assert others == [("other", f"a {n}", s) for n in ("cat", "dog") for s in range(1000, 1003)]
    assert kernel.protocol["other_classes"] == ["cat", "dog"]
    assert SPEC.protocol["other_classes"] == []


def test_the_protocol_is_what_is_drawn_whoever_the_subject_is():
    drawn = {"prompts", "images_per_prompt", "class_images", "class_seed", "other_classes"}
    assert SPEC.protocol.keys() == {*drawn, "templates"}
    changes = {"prompts": "paper", "images_per_prompt": 3, "class_images": 4, "class_seed": 1}
    for key, value in changes.items():
        other = replace(SPEC, **{key: value}).protocol
        differ = {name for name in other if other[name] != SPEC.protocol[name]}
        assert differ == ({key, "templates"} if key == "prompts" else {key})
    rest = {field.name for field in fields(EvaluationSpec)} - drawn
    assert rest == {"name", "metrics", "encoders", "encoders_dir"}  # not of what is drawn


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"prompts": "papers"}, "unknown prompt set 'papers'"),
        ({"images_per_prompt": 0}, "evaluation.images_per_prompt=0 .* whole number, 1 or greater"),
        ({"images_per_prompt": True}, "images_per_prompt=True"),
        ({"class_images": -1}, "evaluation.class_images=-1 .* 0 or greater"),
        ({"class_seed": 1.5}, "evaluation.class_seed=1.5"),
        ({"class_seed": 2**32 - 2}, "seeds 4294967294 to 4294967296, .* less than 2\\^32"),
        ({"name": None}, "evaluation.name=None .* names a folder"),
        ({"name": "../quick"}, "evaluation.name=../quick"),
        ({"other_classes": ("",)}, "other_classes must be a list of class nouns"),
        ({"metrics": ("kernel",), "class_images": 1}, "class_images=1 is too few for a kernel"),
        ({"images_per_prompt": 1}, "leaves DIV no pair"),
        ({"metrics": ("fid",)}, "evaluation.metrics: fid is not one of"),
        ({"encoders": "clip_b32"}, "names no dino network for dino"),
    ],
)
def test_what_no_evaluation_could_use_is_one_sentence(change, expected):
    with pytest.raises(UserError, match=expected) as caught:
        replace(SPEC, **change)
    assert "\n" not in str(caught.value)
