"""A run whose networks are missing has no curve, unless it needs one."""

from __future__ import annotations

import pytest

from dreambooth.errors import UserError
from dreambooth.training import scoring
from dreambooth.training.logs.costs import Costs
from dreambooth.training.prepare import Prepared
from dreambooth.training.scoring import make_curve


@pytest.fixture
def without_networks(spine, tmp_path, monkeypatch):
    """`without_networks(*overrides)`: a run with a curve on a machine without its networks."""

    def fail(*_):
        raise UserError("the networks are not here.")

    monkeypatch.setattr(scoring, "load_encoders", fail)

    def make(*more: str) -> Prepared:
        curve = ("evaluation.every_n_steps=1", "evaluation.encoders=pocket")
        spec = spine.spec(tmp_path, *curve, *more)
        return Prepared(spec, Costs(), weights=None, photos=[], batches=None)

    return make


def test_a_run_goes_on_without_the_curve_whose_networks_are_missing(without_networks, caplog):
    assert make_curve(without_networks()) is None
    (warning,) = caplog.records
    assert warning.getMessage() == "This run has no curve: the networks are not here."


def test_a_curve_that_chooses_the_export_is_needed(without_networks):
    with pytest.raises(UserError, match="not here"):
        make_curve(without_networks("checkpoint.best=harmonic"))
