"""Tables without their page and figures, which have tests of their own."""

from __future__ import annotations

import pytest

from dreambooth.study import tables


@pytest.fixture(autouse=True)
def tables_alone(monkeypatch):
    monkeypatch.setattr(tables, "write_looks", lambda *_: [])
