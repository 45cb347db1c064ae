"""The training prompts of textual inversion are the published ones."""

from __future__ import annotations

import hashlib

import pytest

from dreambooth.data.templates import templates
from dreambooth.errors import UserError


@pytest.mark.parametrize(
    ("name", "count", "published"),
    # of the lists in diffusers' examples/textual_inversion/textual_inversion.py, and of the
    # course's exercise3a, joined by newlines
    [
        ("object", 27, "371f97a75395160f"),
        ("style", 19, "e7ec2b1750c5ab55"),
        ("course", 15, "46bfc4eebfa0b8c8"),
    ],
)
def test_the_sets_are_the_published_ones_in_their_order(name, count, published):
    listed = [template.replace("{subject}", "{}") for template in templates(name)]
    assert len(listed) == count
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16] == published


def test_none_is_empty_and_a_list_is_taken_as_it_is():
    assert templates("none") == ()
    assert templates(["my {subject}", "the {subject} here"]) == (
        "my {subject}",
        "the {subject} here",
    )


@pytest.mark.parametrize("bad", ["objects", [], ["a photo"], ["a {subject} {}"], 3, None, [1]])
def test_others_are_refused_in_one_sentence(bad):
    with pytest.raises(UserError):
        templates(bad)
