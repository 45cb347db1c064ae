"""A run of four steps that other tests resume, copy and compare with."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine import CONSTANT, Spine


@pytest.fixture(scope="session")
def four_steps(spine: Spine, tmp_path_factory) -> Path:
    """Four uninterrupted steps at a constant learning rate, saved after two and four."""
    out = tmp_path_factory.mktemp("four") / "run"
    return spine.run(out, *CONSTANT, "checkpoint.every_n_steps=2")
