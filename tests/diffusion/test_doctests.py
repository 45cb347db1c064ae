"""The examples in the formulas' docstrings hold."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["diffusion.loss", "diffusion.noise", "diffusion.samplers"])
def test_examples_hold(module):
    failed, attempted = doctest.testmod(import_module(f"dreambooth.{module}"))
    assert attempted > 0 and failed == 0
