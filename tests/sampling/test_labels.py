"""Labels: what is drawn has a glyph or a name, and fits its place."""

from __future__ import annotations

from dreambooth.sampling.labels import font_for, has_glyph, readable, wrapped

SIZE = 13


def test_what_no_font_draws_is_named():
    font = font_for("a", SIZE)
    assert has_glyph(font, "é") and has_glyph(font, "ש") and not has_glyph(font, "\U0010ffff")
    assert readable("très\n «Ω» שלום مرحبا") == "très «Ω» שלום مرحبا"
    assert readable("a \U0010fffd b") == "a [u+10fffd] b"
    assert "[unicorn face]" in readable("\U0001f984") or has_glyph(
        font_for("\U0001f984", SIZE), "\U0001f984"
    )


def test_every_line_fits_and_a_cut_is_shown():
    text = " ".join(["a sks dog", "w" * 60, "on the beach"] * 5)
    font = font_for(text, SIZE)
    whole = wrapped(text, font, 150, 99)
    assert "".join(whole).replace(" ", "") == text.replace(" ", "")
    cut = wrapped(text, font, 150, 3)
    assert len(cut) == 3 and cut[-1].endswith("…") and cut[:2] == whole[:2]
    assert all(font.getlength(line) <= 150 for line in [*whole, *cut])
    assert wrapped("", font, 150, 3) == []
