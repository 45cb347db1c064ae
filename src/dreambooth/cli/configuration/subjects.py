"""The subjects that the configuration folders have, with their class nouns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from dreambooth.cli.configuration.configs import CONF, files_of
from dreambooth.data.prompts import SubjectWords


def known_subjects() -> dict[str, SubjectWords]:
    """Read the class noun of every subject that the configuration folders have, by name."""
    folders = [CONF]
    if HydraConfig.initialized():
        sources = HydraConfig.get().runtime.config_sources
        folders = [Path(source.path) for source in sources if source.schema == "file"]
    words = {}
    for path in files_of("subject", folders):
        block: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        noun, live = block.get("class_noun"), block.get("live")
        if isinstance(noun, str) and noun != "???" and isinstance(live, bool):
            words[path.stem] = SubjectWords(noun, noun, f"a {noun}", live)
    return words


def same_class(name: str, class_noun: str) -> tuple[str, ...]:
    """List the other known subjects of a class, sorted."""
    known = known_subjects()
    return tuple(n for n in sorted(known) if n != name and known[n].class_noun == class_noun)
