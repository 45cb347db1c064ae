"""What the configuration folders hold: commands, groups, choices, keys; ours and a user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

PACKAGE = Path(__file__).resolve().parents[2]
# a wheel holds conf/ inside the package, a checkout at its top level
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"
COMMANDS = ("train", "generate", "evaluate", "report", "extract", "merge", "tokens", "pretrain")


def search_folders(config_dir: str | None, overrides: Iterable[str]) -> list[Path]:
    """List the folders that Hydra composes from: `--config-dir`, `conf/`, `hydra.searchpath`."""
    folders = [Path(config_dir)] if config_dir else []
    folders.append(CONF)
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key != "hydra.searchpath":
            continue
        for text in OmegaConf.create(f"listed: {value}").listed or []:
            kind, _, place = str(text).rpartition("://")
            if kind != "pkg":
                folders.append(Path(place))
            elif package := _package(place):
                folders.append(package)
    return folders


def _package(name: str) -> Path | None:
    try:
        return Path(str(resources.files(name)))
    except (ImportError, TypeError):
        return None  # Hydra warns of it


def groups_of(command: str) -> list[str]:
    """List the groups that a command reads, in the order of its defaults list."""
    defaults = _load(CONF / f"{command}.yaml").get("defaults") or []
    entries = [entry for entry in defaults if isinstance(entry, DictConfig)]
    return [str(key) for entry in entries for key in entry if not str(key).startswith("override ")]


def files_of(group: str, folders: Sequence[Path]) -> list[Path]:
    """List a group's files in every folder, by name."""
    files = [path for folder in folders for path in (folder / group).glob("*.yaml")]
    return sorted(files, key=lambda path: path.stem)


def keys_of(command: str, folders: Sequence[Path]) -> set[str]:
    """Every key that a command reads, dotted, with the keys of all choices of its groups."""
    keys = _dotted(_load(CONF / f"{command}.yaml"))
    for group in groups_of(command):
        keys.add(group)
        for path in files_of(group, folders):
            prefix = "" if is_global(path) else f"{group}."
            keys |= _dotted(_load(path), prefix)
    return keys


def is_global(path: Path) -> bool:
    """Whether a group's file sets keys of the whole configuration."""
    return "# @package _global_" in path.read_text()


def _load(path: Path) -> DictConfig:
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, modified: int) -> DictConfig:
    loaded = OmegaConf.load(path)
    return loaded if isinstance(loaded, DictConfig) else OmegaConf.create({})


def _dotted(node: DictConfig, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in node.items_ex(resolve=False):
        if key == "defaults" and node._get_parent() is None:
            continue
        keys.add(f"{prefix}{key}")
        if isinstance(value, DictConfig):
            keys |= _dotted(value, f"{prefix}{key}.")
    return keys
