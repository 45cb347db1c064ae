"""What captions name, which triples are drawn, and shares with their intervals."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pocket_truth as truth
import pytest
import torch
from scipy.stats import binomtest

from dreambooth.pocket import world


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (471, 500), (1, 2), (64, 127)])
def test_interval_is_wilson_s(right, n):
    low, high = binomtest(right, n).proportion_ci(0.95, "wilson")
    share = truth.Share.of([True] * right + [False] * (n - right))
    assert share.n == n and share.value == pytest.approx(right / n)
    assert share.interval == pytest.approx((low, high), abs=1e-9)


def scene(noun: str, color: str, context: str, **view) -> world.Scene:
    who = world.Identity(noun, color, "white", "spots", 1)
    return world.Scene(who, world.View(context=context, **view))


@pytest.mark.parametrize(
    ("caption", "shown", "named"),
    [
        ("a photo of a red spotted dog in the snow", scene("dog", "red", "snow"), "dog red snow"),
        ("a dog", scene("dog", "red", "snow"), "dog - -"),
        ("a dog wearing a red hat", scene("dog", "red", "snow", accessory="red hat"), "dog - -"),
        ("an image of a green dog", scene("dog", "red", "snow", tint="green"), "dog green -"),
        ("an orange candle", scene("candle", "orange", "plain"), "candle orange -"),
        ("a toy on top of pink fabric", scene("toy", "pink", "pink fabric"), "toy - pink fabric"),
        (
            "a can with the eiffel tower in the background",
            scene("can", "blue", "eiffel"),
            "can - eiffel",
        ),
    ],
)
def test_asked_is_what_the_caption_names(caption, shown, named):
    noun, color, context = named.split(" ", 2)
    facts = {"class": noun, "color": color, "context": context}
    assert truth.asked(caption, shown) == {k: v for k, v in facts.items() if v != "-"}


def test_articles_follow_the_next_letter():
    assert truth.articles("an image of a orange dog") == "an image of an orange dog"
    assert truth.articles("an red banana in a jungle") == "a red banana in a jungle"


def parts(caption: str) -> tuple[str | None, str, str | None]:
    """Colour, class and context of a caption, read from left to right by its grammar."""
    match = re.fullmatch(r"(?:(?:a photo|a picture|an image) of )?an? (.*)", caption)
    assert match is not None
    rest = match[1]
    color = rest.split(" ", 1)[0] if rest.split(" ", 1)[0] in world.COLORS else None
    rest = rest.removeprefix(f"{color} ")
    words = [w for w in world.PATTERN_WORDS.values() if w and rest.startswith(f"{w} ")]
    rest = rest.removeprefix(f"{words[0]} ") if words else rest
    noun = max((c for c in world.CLASSES if f"{rest} ".startswith(f"{c} ")), key=len)
    places = {phrase.lower(): name for name, phrase in world.CONTEXTS.items() if phrase}
    place = [p for p in places if rest.endswith(p)]
    return color, noun, places[place[0]] if place else None


def test_caption_pairs_are_true_false_and_false_in_one_part():
    rows = truth.caption_pairs(150, 0)
    changes = []
    for shown, right, wrong, changed in rows:
        facts = (shown.seen.main_color, shown.seen.class_noun, shown.view.context)
        assert world.held_out_identity(shown.identity)
        assert all(part in (None, fact) for part, fact in zip(parts(right), facts, strict=True))
        assert any(part not in (None, fact) for part, fact in zip(parts(wrong), facts, strict=True))
        differ = [a != b for a, b in zip(parts(right), parts(changed), strict=True)]
        assert sum(differ) == 1 and parts(changed).count(None) == parts(right).count(None)
        assert truth.articles(changed) == changed
        changes.append(differ.index(True))
    assert set(changes) == {0, 1, 2}
    assert truth.caption_pairs(3, 0) == rows[:3] != truth.caption_pairs(3, 1)


def test_triples_are_two_views_of_one_identity_and_one_of_another():
    scenes = truth.identity_triples(40, 0)
    for i in range(0, 120, 3):
        first, second, third = scenes[i : i + 3]
        assert first.identity == second.identity and first.view != second.view
        assert world.held_out_identity(first.identity) and world.held_out_identity(third.identity)
        assert first.identity.class_noun == third.identity.class_noun
        assert replace(first.identity, width=0, head=0, hue=0, shade=0) != replace(
            third.identity, width=0, head=0, hue=0, shade=0
        )
    assert not any(each.view.tint for each in scenes)
    assert not set(scenes) & set(truth.identity_triples(40, 1))


def test_tints_too_change_nothing_but_the_tint():
    plain, tinted = truth.identity_triples(40, 0), truth.identity_triples(40, 0, tints=True)
    assert any(each.view.tint for each in tinted)
    assert [replace(s, view=replace(s.view, tint=None)) for s in tinted] == plain


def test_hits_by_hand():
    seen = [
        {"class": "dog", "color": "red", "context": "snow"},
        {"class": "cat", "color": "red", "context": "city"},
        {"class": "dog", "color": "blue", "context": "city"},
    ]
    wanted = [{"class": "dog", "color": "red"}, {"class": "dog", "color": "red"}, {"class": "dog"}]
    found = truth.hits(seen, wanted)
    assert found == {
        "class": truth.Share(2 / 3, 3),
        "color": truth.Share(1.0, 2),
        "all": truth.Share(2 / 3, 3),
    }


class Known:
    """An encoder with given features, in the order in which they are read."""

    def __init__(self, images: list, *texts: list) -> None:
        self._images, self._texts, self.read = torch.tensor(images), list(texts), []

    def images(self, images):
        assert len(images) == len(self._images)
        return self._images

    def texts(self, texts):
        self.read.append(texts)
        return torch.tensor(self._texts.pop(0))


def test_nearer_counts_triples_whose_views_belong_together():
    east, north = [1.0, 0.0], [0.0, 1.0]
    dino: Any = Known([east, east, north, east, north, east, north, north, east])
    share = truth.nearer(dino, truth.identity_triples(3, 0))
    assert share.value == pytest.approx(2 / 3) and share.n == 3


def test_preferred_compares_with_both_other_captions():
    east, north = [1.0, 0.0], [0.0, 1.0]
    clip: Any = Known([east, east], [east, north], [north, east], [[0.5, 0.5], [0.0, -1.0]])
    found = truth.preferred(clip, 2, 0)
    assert found == {"caption": truth.Share(0.5, 2), "one part": truth.Share(0.5, 2)}
    rows = truth.caption_pairs(2, 0)
    assert clip.read == [[row[k] for row in rows] for k in (1, 2, 3)]


def test_json_keeps_rows_of_plain_numbers_and_lists_the_counts():
    table = {"vae": {"scenes": 27.5}, "probe": {"class": truth.Share(0.5, 4)}}
    written = truth.as_json(table)
    low, high = binomtest(2, 4).proportion_ci(0.95, "wilson")
    share = {"row": "probe", "name": "class", "n": 4, "interval_95": pytest.approx([low, high])}
    assert written == {"vae": {"scenes": 27.5}, "probe": {"class": 0.5}, "shares": [share]}
    assert truth.shown("class", table["probe"]["class"]) == "class 0.500 (n 4, 0.150 to 0.850)"
    assert truth.shown("scenes", 27.5) == "scenes 27.500"


def test_scenes_are_rendered_in_order():
    scenes = [scene("dog", "red", "snow"), scene("cat", "blue", "city")]
    assert np.array_equal(truth.rendered(scenes)[1], world.render(scenes[1]))
