"""Names of runs that read, from the values that a command sets."""

from __future__ import annotations

import pytest

from dreambooth.cli.sweeps.run_names import LENGTH, flat_config, run_name

CONFIG = {
    "subject": {"name": "dog"},
    "model": {"name": "sd15"},
    "method": {"name": "full", "uses_prior": True},
    "optimizer": {"_target_": "x.AdamW8bit"},
    "scheduler": {"name": "DDIMScheduler"},
    "ppl": True,
    "lr": 2e-4,
    "max_steps": 200,
    "train_text_encoder": False,
    "seed": 0,
    "prior": {"weight": 0.5},
    "cache_dir": "/cache",
}


@pytest.mark.parametrize(
    ("changes", "overrides", "name"),
    [
        ({}, [], "dog-ppl-lr2e-4-200"),
        (
            {"ppl": False, "train_text_encoder": True},
            ["ppl=false"],
            "dog-no-ppl-lr2e-4-200-text-encoder",
        ),
        (
            {"method": {"name": "lora", "uses_prior": True}},
            ["cache_dir=x"],
            "dog-lora-ppl-lr2e-4-200",
        ),
        ({}, ["scheduler=ddim", "seed=0"], "dog-ppl-lr2e-4-200-DDIM-seed0"),
        ({}, ["prior.weight=0.5"], "dog-ppl-lr2e-4-200-weight-0.5"),
        ({}, ["optimizer=adamw_8bit", "trainer=cpu"], "dog-ppl-lr2e-4-200-optimizer-adamw_8bit"),
        ({"subject": {"name": "d" * 200}}, [], "d" * LENGTH),
    ],
)
def test_a_run_is_named_by_what_a_reader_asks(changes, overrides, name):
    assert run_name({**CONFIG, **changes}, overrides) == name


def test_what_varies_is_flat_and_the_rest_below_one_key():
    flat = flat_config(CONFIG, ["prior.weight=0.5", "logger.group=x", "ppl=true"])
    assert flat["subject"] == "dog" and flat["scheduler"] == "DDIMScheduler"
    assert flat["prior_weight"] == 0.5 and flat["settings"]["cache_dir"] == "/cache"
    assert not [key for key in flat if "." in key or key.startswith("logger")]
