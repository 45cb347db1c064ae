"""The style sheet: what is read has the contrast of WCAG 2.2, level AA, in both colour schemes."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = (files("dreambooth.study.page") / "templates" / "style.css").read_text("utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    for block in re.findall(r":root \{(.+?)\}", CSS, re.DOTALL)[:2]
)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_black_on_white_has_the_known_contrast():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_controls_and_marks_can_be_told_from_the_paper(scheme):
    for ground in ("paper", "card", "wash"):
        for text in ("ink", "soft", "accent"):
            assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for mark in ("edge", *(f"c{i}" for i in range(8))):
        assert contrast(scheme[mark], scheme["paper"]) >= 3, mark
