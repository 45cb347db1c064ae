"""Any value for any key: a command line is accepted, or refused without a traceback."""

from __future__ import annotations

import math
from typing import Any

import pytest
import wrong_input
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.quoting import quoted

KEYS = sorted(wrong_input.cli_keys())
TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
NUMBERS = st.integers(-(2**33), 2**33) | st.floats(width=32)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
ANY = st.recursive(
    PLAIN,
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), each, max_size=2)
    ),
    max_leaves=4,
)


def own_values() -> dict[str, Any]:
    """Read the value that each key has by default."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["output_dir=out"])
    return {key: OmegaConf.select(cfg, key) for key in KEYS}


def like(value: object) -> st.SearchStrategy[Any]:
    """Draw values of a default's own type, near its bounds and far from them."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(-2, 3) | st.integers(-(2**40), 2**40)
    if isinstance(value, float):
        return st.floats() | st.floats(-1, 2)
    return TEXTS if isinstance(value, str) else ANY


def written(value: object) -> str:
    """Write a value as an override has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return repr(value) if isinstance(value, int | float) else quoted(value)


OWN = own_values()
LINES = st.sampled_from(KEYS).flatmap(
    lambda key: (like(OWN[key]) | ANY).map(lambda value: f"{key}={written(value)}")
)


@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.thorough)])
def test_no_value_of_a_key_ends_in_a_traceback(count):
    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(LINES)
    def holds(line: str) -> None:
        assert not wrong_input.compose_line(line).startswith("traceback"), line

    holds()


def test_values_are_written_as_hydra_reads_them():
    value = [1, -2.5, "it's", {"a": None, "b": [True]}]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["output_dir=out", f"+optimizer.x={written(value)}"])
    assert OmegaConf.to_container(cfg.optimizer.x) == value


def test_a_list_of_nothing_is_no_choice_of_a_group():
    assert wrong_input.compose_line("reuse=[null]") == "refused"
