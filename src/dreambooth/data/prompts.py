"""The prompts that DreamBooth studies score, as templates with one field, `{subject}`."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.errors import UserError

# google/dreambooth, dataset/prompts_and_classes.txt; {subject} stands for its '{0} {1}'.
_SCENES = (
    "a {subject} in the jungle",
    "a {subject} in the snow",
    "a {subject} on the beach",
    "a {subject} on a cobblestone street",
    "a {subject} on top of pink fabric",
    "a {subject} on top of a wooden floor",
    "a {subject} with a city in the background",
    "a {subject} with a mountain in the background",
    "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
)
_OBJECT_SCENES = (
    "a {subject} with a wheat field in the background",
    "a {subject} with a tree and autumn leaves in the background",
    "a {subject} with the Eiffel Tower in the background",
    "a {subject} floating on top of water",
    "a {subject} floating in an ocean of milk",
    "a {subject} on top of green grass with sunflowers around it",
    "a {subject} on top of a mirror",
    "a {subject} on top of the sidewalk in a crowded street",
    "a {subject} on top of a dirt road",
    "a {subject} on top of a white rug",
)
_ACCESSORIES = (
    "a {subject} wearing a red hat",
    "a {subject} wearing a santa hat",
    "a {subject} wearing a rainbow scarf",
    "a {subject} wearing a black top hat and a monocle",
    "a {subject} in a chef outfit",
    "a {subject} in a firefighter outfit",
    "a {subject} in a police outfit",
    "a {subject} wearing pink glasses",
    "a {subject} wearing a yellow shirt",
    "a {subject} in a purple wizard outfit",
)
_PROPERTIES = (
    "a red {subject}",
    "a purple {subject}",
    "a shiny {subject}",
    "a wet {subject}",
    "a cube shaped {subject}",
)

# grantrinehimer/dreambooth_diffusion, data/prompts.csv (Cornell CS4782, 2025), in its order.
_CORNELL_OBJECT = (
    "a {subject} in the jungle",
    "a {subject} on the beach",
    "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
    "a {subject} with the Eiffel Tower in the background",
    "a {subject} floating in an ocean of milk",
    "a purple {subject}",
    "a cube shaped {subject}",
)
_CORNELL_LIVE = (
    "a {subject} in the jungle",
    "a {subject} in the snow",
    "a {subject} on the beach",
    "a {subject} with a blue house in the background",
    "a {subject} on top of a purple rug in a forest",
    "a {subject} wearing a santa hat",
    "a {subject} in a firefighter outfit",
    "a cube shaped {subject}",
)

# Four of the paper's prompts that the embedded model can draw, for objects and live subjects.
_QUICK = (
    "a {subject} in the jungle",
    "a {subject} on the beach",
    "a {subject} in the snow",
    "a red {subject}",
)

# name: (templates for objects, templates for live subjects)
_SETS = {
    "paper": (
        _SCENES + _OBJECT_SCENES + _PROPERTIES,
        _SCENES + _ACCESSORIES + _PROPERTIES,
    ),
    "cornell": (_CORNELL_OBJECT, _CORNELL_LIVE),
    "recontext": (_SCENES, _SCENES),
    "quick": (_QUICK, _QUICK),
}


@dataclass(frozen=True)
class SubjectWords:
    """The words that name the subject in prompts; `live` chooses among the prompt sets."""

    phrase: str
    class_noun: str
    class_prompt: str
    live: bool


def prompts(name: str, live: bool) -> tuple[str, ...]:
    """Return the templates of a prompt set, for live subjects or for objects.

    The set `paper` has 25 templates, `recontext` (its first) 10, `cornell` 8 and `quick` 4.

    Raises:
        UserError: an unknown set.
    """
    if name not in _SETS:
        raise UserError(f"unknown prompt set {name!r}: choose one of {', '.join(_SETS)}.")
    return _SETS[name][1 if live else 0]


def fill(template: str, identifier: str | None, class_noun: str) -> str:
    """Fill a template: "a red {subject}" with "sks", "dog" is "a red sks dog".

    Without an identifier it is "a red dog". The article stays the dataset's "a". A text without
    `{subject}` is returned as it is.

    Raises:
        UserError: no identifier and no class noun, or other braces: a prompt with unfilled braces
            would be scored wrongly without a sign of it.
    """
    subject = " ".join(word for word in (identifier, class_noun) if word)
    if not subject:
        raise UserError(
            f"the prompt {template!r} has no subject: set an identifier or subject.class_noun."
        )
    text = template.replace("{subject}", subject)
    if "{" in text or "}" in text:
        raise UserError(
            f"the prompt {text!r} has braces left over: {{subject}} is the field that is "
            "filled, in generate.py {class_noun} too."
        )
    return text
