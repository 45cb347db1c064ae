"""The rendered world: it follows from a seed, is varied, and shows nothing that is held out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dreambooth.pocket import world
from dreambooth.pocket.world import renderer

NUMBER = 2000


@pytest.fixture(scope="module")
def train_scenes() -> list[world.Scene]:
    return [world.sample_scene(seed) for seed in range(NUMBER)]


def either(words) -> str:
    return "|".join(re.escape(word.lower()) for word in words if word)


# what a caption may contain, written independently: article, colour, pattern, noun, accessory,
# context
CAPTION = re.compile(
    r"(?:a photo of |a picture of |an image of |)(?P<article>an?) "
    rf"(?:(?P<color>{either(world.COLORS)}) )?"
    r"(?:(?P<pattern>spotted|striped|patched) )?"
    rf"(?P<noun>{either(world.CLASSES)})"
    rf"(?: (?P<accessory>{either(world.ACCESSORIES.values())}))?"
    rf"(?: (?P<context>{either(world.CONTEXTS.values())}))?"
)
PATTERN_OF = {"spotted": "spots", "striped": "stripes", "patched": "patch"}


def silhouette(scene: world.Scene) -> np.ndarray:
    """Coverage `[32,32]` of the subject alone, cut to its bounding box."""
    alpha = renderer._subject(scene, 64)[1]
    rows, columns = (np.flatnonzero(alpha.max(axis) > 0.5) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return np.asarray(Image.fromarray(alpha).resize((32, 32), box=box))


def shape_distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - intersection over union, of the better of both mirrorings."""
    return min(1 - float(np.minimum(a, x).sum() / np.maximum(a, x).sum()) for x in (b, b[:, ::-1]))


@pytest.mark.parametrize("seed", (0, 1, 2**31))
def test_a_seed_is_a_picture_and_a_caption(seed):
    first, again = world.sample_scene(seed), world.sample_scene(seed)
    assert first == again
    assert np.array_equal(world.render(first), world.render(again))
    captions = [world.caption(first, np.random.default_rng(seed)) for _ in range(2)]
    assert captions[0] == captions[1]


def test_another_seed_is_another_picture():
    pictures = [world.render(world.sample_scene(seed)) for seed in range(8)]
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == 8


def read(text: str) -> re.Match[str]:
    """Match a caption's parts."""
    match = CAPTION.fullmatch(text)
    assert match is not None, text
    return match


def test_a_caption_names_only_what_is_true(train_scenes):
    named_at_least_once = set()
    for seed, scene in enumerate(train_scenes):
        text = world.caption(scene, np.random.default_rng(seed))
        named = read(text)
        named_at_least_once |= {part for part, word in named.groupdict().items() if word}
        assert named["noun"] == scene.identity.class_noun
        if scene.view.tint:  # the colour that is seen, not the coat's own
            assert named["color"] == scene.view.tint
        assert named["color"] in (None, scene.view.tint or scene.identity.main_color)
        assert named["pattern"] is None or PATTERN_OF[named["pattern"]] == scene.identity.pattern
        if named["accessory"]:
            assert world.ACCESSORIES[scene.view.accessory] == named["accessory"]
        if named["context"]:
            assert world.CONTEXTS[scene.view.context].lower() == named["context"]
        first = text[named.start("article") + len(named["article"]) + 1]
        assert (named["article"] == "an") == (first in "aeiou")
    assert named_at_least_once == set(CAPTION.groupindex)


def test_captions_leave_parts_out(train_scenes):
    texts = [world.caption(train_scenes[0], np.random.default_rng(i)) for i in range(200)]
    parts = [read(text).groupdict() for text in texts]
    for part in ("color", "context"):
        assert {bool(p[part]) for p in parts} == {True, False}, part


@pytest.mark.parametrize("noun", world.CLASSES)
def test_the_colour_word_is_the_colour_seen(noun):
    who = world.Identity(noun, "red", "white", "plain", 0)
    view = world.View(context="white rug", light=0.0, variation=3)
    pictures = {
        color: world.render(world.Scene(replace(who, main_color=color), view)).astype(float)
        for color in ("red", "green", "blue")
    }
    tinted = world.render(world.Scene(who, replace(view, tint="blue")))
    assert np.array_equal(tinted, pictures["blue"].astype(np.uint8))
    coat = np.abs(pictures["red"] - pictures["blue"]).max(2) > 60
    assert coat.sum() > 100  # of 4096 pixels
    for color, picture in pictures.items():
        seen = picture[coat].mean(0)
        nearest = min(world.COLORS, key=lambda c: np.abs(seen - world.COLORS[c]).sum())
        assert nearest == color


def test_accessory_and_context_are_drawn():
    for noun in sorted(world.WEARERS):
        scene = world.Scene(world.Identity(noun, "gray", "brown", "plain", 0), world.View())
        bare = world.render(scene)
        worn = [
            world.render(replace(scene, view=replace(scene.view, accessory=name)))
            for name in world.ACCESSORIES
        ]
        for picture in worn:
            assert (np.abs(picture.astype(int) - bare).max(2) > 40).sum() > 20, noun
        assert len({picture.tobytes() for picture in worn}) == len(worn)
    who = world.Identity("vase", "gray", "brown", "plain", 0)
    places = [world.render(world.Scene(who, world.View(context=c))) for c in world.CONTEXTS]
    for i, a in enumerate(places):
        for b in places[:i]:
            assert np.abs(a.astype(int) - b).mean() > 8  # of 255


def test_a_class_without_a_face_wears_nothing():
    vase = world.Identity("vase", "gray", "brown", "plain", 0)
    with pytest.raises(ValueError, match="a vase cannot wear a red hat"):
        world.render(world.Scene(vase, world.View(accessory="red hat")))


def test_every_class_context_colour_and_accessory_is_reached(train_scenes):
    views = [scene.view for scene in train_scenes]
    assert {scene.identity.class_noun for scene in train_scenes} == set(world.CLASSES)
    assert {view.context for view in views} == set(world.CONTEXTS)
    assert {scene.seen.main_color for scene in train_scenes} == set(world.COLORS)
    assert {scene.identity.pattern for scene in train_scenes} == set(world.PATTERNS)
    assert {view.accessory for view in views} == {None, *world.ACCESSORIES}
    for scene in train_scenes:
        assert scene.view.accessory is None or scene.identity.class_noun in world.WEARERS


def test_training_never_shows_what_is_held_out(train_scenes):
    for scene in train_scenes:
        seen = scene.seen
        assert not world.held_out_identity(scene.identity) and not world.held_out_identity(seen)
        assert not world.held_out_combination(
            scene.identity.class_noun, seen.main_color, scene.view.context
        )


def test_held_out_shares():
    rng = np.random.default_rng(0)
    drawn = [world.sample_identity(None, rng, "any") for _ in range(NUMBER)]
    assert 0.07 < np.mean([world.held_out_identity(who) for who in drawn]) < 0.13
    every = [(n, c, x) for n in world.CLASSES for c in world.COLORS for x in world.CONTEXTS]
    held = [combination for combination in every if world.held_out_combination(*combination)]
    assert 0.035 < len(held) / len(every) < 0.065
    assert all(context != "plain" for *_, context in held)
    for seed in range(20):
        assert world.held_out_identity(world.sample_scene(seed, "held_out").identity)


def test_proportions_do_not_decide_what_is_held_out():
    who = world.sample_identity("cat", np.random.default_rng(0), "held_out")
    assert world.held_out_identity(replace(who, width=0.1, head=0.9, hue=0.2, shade=0.7))


def test_an_impossible_scene_is_refused():
    who = world.sample_identity("dog", np.random.default_rng(0), "held_out")
    with pytest.raises(ValueError, match="No train scene"):
        world.sample_scene(0, "train", identity=who)
    with pytest.raises(ValueError, match="split"):
        world.sample_identity("dog", np.random.default_rng(0), "test")


def test_subjects_are_held_out_and_differ_by_name():
    names = [f"dog{i}" for i in range(30)]
    identities = [world.subject_identity("dog", name) for name in names]
    assert all(world.held_out_identity(who) and who.class_noun == "dog" for who in identities)
    assert len(set(identities)) == len(names)
    assert identities[0] == world.subject_identity("dog", "dog0")
    assert world.subject_identity("cat", "dog0").class_noun == "cat"


def test_any_view_of_an_identity_keeps_its_colours():
    who = world.subject_identity("dog", "dog")
    scenes = [world.identity_scene(who, seed) for seed in range(60)]
    assert {scene.seen for scene in scenes} == {who}
    tinted = [world.sample_scene(seed, "any", identity=who) for seed in range(60)]
    assert any(scene.view.tint for scene in tinted)
    assert len({scene.view.context for scene in scenes}) > 10


def test_a_subjects_photos_are_one_identity_without_disguise():
    who = world.subject_identity("dog", "dog")
    scenes = world.subject_scenes(who)
    assert len(scenes) == 5 and {scene.identity for scene in scenes} == {who}
    assert all(scene.view.accessory is None and scene.view.tint is None for scene in scenes)
    assert len({scene.view.context for scene in scenes}) == 5
    assert scenes == world.subject_scenes(who) and scenes != world.subject_scenes(who, seed=1)
    assert len(world.subject_scenes(who, 12)) == 12


def test_classes_differ_more_in_shape_than_views_of_one_subject():
    shapes = {}
    for noun in world.CLASSES:
        who = world.sample_identity(noun, np.random.default_rng(0), "any")
        shapes[noun] = [silhouette(scene) for scene in world.subject_scenes(who, 6)]
    for noun, own in shapes.items():
        views = np.mean([shape_distance(a, b) for i, a in enumerate(own) for b in own[:i]])
        others = {
            other: np.mean([shape_distance(a, b) for a in own for b in theirs])
            for other, theirs in shapes.items()
            if other != noun
        }
        nearest = min(others, key=lambda other: others[other])
        assert others[nearest] > views, f"{noun} is as near to {nearest} as its own views"


def test_the_vocabulary_covers_every_caption(train_scenes):
    known = set(world.vocabulary())
    texts = [world.caption(s, np.random.default_rng(i)) for i, s in enumerate(train_scenes)]
    used = {word for text in texts for word in text.split()}
    assert used <= known
    assert len(known - used) < 5  # nothing but rare words is left
    assert world.vocabulary() == sorted(known)
