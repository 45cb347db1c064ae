"""The table of benchmarks/pocket_inversion.py, and what its row `words` says."""

from __future__ import annotations

from pocket_effects import Subject
from pocket_inversion import caption, table

from dreambooth.pocket import world


def test_the_table_puts_the_best_binding_last():
    def row(options: list[str], *bindings: float) -> dict:
        figures = [{"binding": b, "context": 1.0, "seconds": 10.0 * b} for b in bindings]
        return {"options": options, "subjects": {f"s{i}": f for i, f in enumerate(figures)}}

    lines = table({"good": row(["lr=1"], 1.0, 0.5), "poor": row([], 0.0, 0.25)}).splitlines()
    assert lines[2].startswith("| poor | | 12% (0% to 25%): 0%, 25% | 100% | 1 |")
    assert lines[3].startswith("| good | `lr=1` | 75% (50% to 100%): 100%, 50% | 100% | 8 |")


def test_the_caption_names_colour_pattern_and_class():
    subject = Subject("held-out-00", "dog")
    who = world.subject_identity("dog", "held-out-00")
    words = caption(subject).split()
    assert words[0] == who.main_color and words[-1] == "dog"
    assert (len(words) == 3) == (who.pattern != "plain")
