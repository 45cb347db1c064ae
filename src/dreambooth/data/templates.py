"""The training prompts of textual inversion, as templates with one field, `{subject}`."""

from __future__ import annotations

from dreambooth.data.prompts import fill
from dreambooth.errors import UserError

# Gal et al. 2022 (arXiv:2208.01618), section A.4 and their code: rinongal/textual_inversion,
# ldm/data/personalized.py and personalized_style.py; diffusers' textual_inversion.py has the same.
_OBJECT = (
    "a photo of a {subject}",
    "a rendering of a {subject}",
    "a cropped photo of the {subject}",
    "the photo of a {subject}",
    "a photo of a clean {subject}",
    "a photo of a dirty {subject}",
    "a dark photo of the {subject}",
    "a photo of my {subject}",
    "a photo of the cool {subject}",
    "a close-up photo of a {subject}",
    "a bright photo of the {subject}",
    "a cropped photo of a {subject}",
    "a photo of the {subject}",
    "a good photo of the {subject}",
    "a photo of one {subject}",
    "a close-up photo of the {subject}",
    "a rendition of the {subject}",
    "a photo of the clean {subject}",
    "a rendition of a {subject}",
    "a photo of a nice {subject}",
    "a good photo of a {subject}",
    "a photo of the nice {subject}",
    "a photo of the small {subject}",
    "a photo of the weird {subject}",
    "a photo of the large {subject}",
    "a photo of a cool {subject}",
    "a photo of a small {subject}",
)
# "a close-up painting" is in their list twice, and so drawn twice as often
_STYLE = (
    "a painting in the style of {subject}",
    "a rendering in the style of {subject}",
    "a cropped painting in the style of {subject}",
    "the painting in the style of {subject}",
    "a clean painting in the style of {subject}",
    "a dirty painting in the style of {subject}",
    "a dark painting in the style of {subject}",
    "a picture in the style of {subject}",
    "a cool painting in the style of {subject}",
    "a close-up painting in the style of {subject}",
    "a bright painting in the style of {subject}",
    "a cropped painting in the style of {subject}",
    "a good painting in the style of {subject}",
    "a close-up painting in the style of {subject}",
    "a rendition in the style of {subject}",
    "a nice painting in the style of {subject}",
    "a small painting in the style of {subject}",
    "a weird painting in the style of {subject}",
    "a large painting in the style of {subject}",
)
# of the course Pixels2GenAI, module 12.5.1, for a material, which takes no article
_COURSE = (
    "a photo of {subject}",
    "a rendering of {subject}",
    "a cropped photo of {subject}",
    "the photo of {subject}",
    "a photo of a clean {subject}",
    "a photo of a dirty {subject}",
    "a dark photo of {subject}",
    "a photo of my {subject}",
    "a photo of the cool {subject}",
    "a close-up photo of {subject}",
    "a bright photo of {subject}",
    "a photo of a nice {subject}",
    "a photo of a weird {subject}",
    "a blurry photo of {subject}",
    "a good photo of {subject}",
)
_SETS = {"object": _OBJECT, "style": _STYLE, "course": _COURSE, "none": ()}


def templates(chosen: object) -> tuple[str, ...]:
    """Return the templates of a set: `object`, `style`, `course`, `none` (empty), or of a list.

    Raises:
        UserError: another set, or a template without `{subject}`.
    """
    if isinstance(chosen, str) and chosen in _SETS:
        return _SETS[chosen]
    listed = chosen if isinstance(chosen, list | tuple) else ()
    if not listed or not all(isinstance(t, str) and "{subject}" in t for t in listed):
        raise UserError(
            f"method.token.templates={chosen} is not usable: use {', '.join(_SETS)}, or a list "
            'such as ["a photo of a {subject}"], each with {subject} in it.'
        )
    for template in listed:
        fill(template, "subject", "")  # refuses other braces
    return tuple(listed)
