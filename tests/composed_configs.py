"""Configurations of training runs as `dreambooth.study.costs` reads them."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dreambooth.cli.configuration import resolvers  # noqa: F401  registers what the YAML files use
from dreambooth.cli.configuration.configs import CONF

OWN = ("output_dir=out", "trainer=cpu", "samples.seeds=[0,1]", "samples.every_n_steps=0")


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("train", [*OWN, *overrides]), resolve=True)
    return plain
