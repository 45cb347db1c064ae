"""What Hydra refuses, in one sentence that a reader can act on."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.refusals.error_sentences import composition_error


@pytest.mark.parametrize(
    ("command", "argument", "expected"),
    [
        ("train", "lr=1,2", "lr=1,2 holds several values: add -m to run once with each, or write"),
        ("report", "runs=a,b", "runs=a,b is no folder: give the one that all these runs lie in."),
    ],
)
def test_several_values(command, argument, expected):
    error = HydraException(f"Ambiguous value for argument '{argument}'\n1. To use it as a list")
    assert str(composition_error(command, error, [CONF])).startswith(expected)
