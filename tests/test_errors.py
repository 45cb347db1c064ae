"""Words that error messages share."""

from __future__ import annotations

from dreambooth.data.dataset import dataset_subjects
from dreambooth.errors import suggest


def test_suggest_names_the_nearest_or_all() -> None:
    assert suggest("dgo", ["cat", "dog", "dog2"]) == "unknown subject 'dgo': did you mean 'dog'?"
    assert suggest("Teapott", dataset_subjects()).endswith("did you mean 'teapot'?")
    assert suggest("lamp", ["dog", "cat"]) == "unknown subject 'lamp': choose one of cat, dog."
    assert suggest("dimm", ["ddim", "pndm"], "scheduler").startswith("unknown scheduler 'dimm'")
