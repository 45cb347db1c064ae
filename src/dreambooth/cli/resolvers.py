"""What `${if:...}` and `${last_word:...}` mean in the YAML, for whoever reads a configuration."""

from __future__ import annotations

from omegaconf import OmegaConf

OmegaConf.register_new_resolver("if", lambda when, yes, no: yes if when else no, replace=True)
OmegaConf.register_new_resolver("last_word", lambda text: text.split()[-1], replace=True)
