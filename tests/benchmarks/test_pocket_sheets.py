"""What the sheets show, and their labels."""

from __future__ import annotations

import pocket_sheets as sheets

from dreambooth.pocket import world


def test_every_class_has_a_row_with_its_label():
    scenes = sheets.asked()
    rows = [scenes[i : i + 6] for i in range(0, len(scenes), 6)]
    assert [{s.identity.class_noun for s in row} for row in rows] == [{c} for c in world.CLASSES]
    assert all(len({s.view.context for s in row} - {"plain"}) == 6 for row in rows)
    labels = sheets.labels(scenes)
    assert len(labels) == 15
    for row, label in zip(rows, labels, strict=True):
        parts = [f"{s.seen.main_color} {s.view.context}" for s in row]
        assert label == f"{row[0].identity.class_noun}: " + ", ".join(parts)


def test_the_prompt_names_what_is_painted():
    who = world.Identity("cat", "red", "white", "plain", 0)
    tinted = world.Scene(who, world.View(context="eiffel", tint="orange"))
    assert sheets.prompt_of(tinted) == "an orange cat with the eiffel tower in the background"
