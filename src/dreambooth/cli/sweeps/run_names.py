"""What a run and its study are called where runs are compared: `dog-ppl-lr2e-4-200`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dreambooth.study.finished.sweeps import sweep_name
from dreambooth.training.resuming.fingerprint import NEITHER, is_under

# the words of studies, and the key of each
WORDS = {
    "subject": "subject.name",
    "model": "model.name",
    "method": "method.name",
    "ppl": "ppl",
    "lr": "lr",
    "max_steps": "max_steps",
    "train_text_encoder": "train_text_encoder",
    "scheduler": "scheduler.name",
    "seed": "seed",
}
# what a command may set and no reader asks for
UNNAMED = (
    *NEITHER,
    "hydra",
    "experiment",
    "trainer",
    "photos.root",
    "subject.photos",
    "model.path",
)
IN_NAME = ("subject", "method", "ppl", "lr", "max_steps", "train_text_encoder")  # in any case
LENGTH = 120


def job_overrides() -> list[str]:
    """List the overrides of this job; none outside of a command."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def flat_config(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """List what studies vary by its short word, then what else the command sets.

    Dots become underscores: W&B reads a dot as a level. `settings` holds the whole configuration.
    """
    own = {key.replace(".", "_"): value for key, value in _others(config, overrides).items()}
    words = {word: _select(config, key) for word, key in WORDS.items()}
    return {**words, **own, "settings": dict(config)}


def run_name(config: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Name a run by what a reader asks first, then by what else the command sets."""
    method, given = config["method"], {_key(override) for override in overrides}
    parts = [config["subject"]["name"]]
    parts += [method["name"]] if method["name"] != "full" else []
    parts += ["ppl" if config["ppl"] else "no-ppl"] if method["uses_prior"] else []
    parts += [f"lr{number(config['lr'])}", str(config["max_steps"])]
    parts += ["text-encoder"] if config["train_text_encoder"] else []
    for word, key in WORDS.items():
        if word not in IN_NAME and {word, key} & given:
            value = str(_select(config, key)).removesuffix("Scheduler")
            parts.append(f"seed{value}" if word == "seed" else value)
    for key, value in _others(config, overrides).items():
        parts.append(f"{key.rpartition('.')[2]}-{number(value)}")
    return re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-")[:LENGTH]


def group_name(config: Mapping[str, Any]) -> str:
    """Name the study that a run belongs to: its preset or sweep; a single run's is its subject."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return config["subject"]["name"]
    return sweep_name(Path(str(HydraConfig.get().sweep.dir)))[:LENGTH]


def number(value: Any) -> str:
    """Write a value shortly.

    >>> number(2e-4), number(0.5), number(1.5e-05), number("adamw")
    ('2e-4', '0.5', '1.5e-5', 'adamw')
    """
    if not isinstance(value, float):
        return str(value)
    if 0 < abs(value) < 0.01:
        digits, exponent = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:g}"


def _others(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """List what a command sets beside the words: a group's choice as it was written."""
    words, found = {*WORDS, *WORDS.values()}, {}
    for override in overrides:
        key = _key(override)
        if key in words or is_under(key, UNNAMED) or override.startswith("~"):
            continue
        value = _select(config, key)
        found[key] = (
            override.partition("=")[2] if value is None or isinstance(value, Mapping) else value
        )
    return found


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _select(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
