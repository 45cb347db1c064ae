"""The text of `--help`, made from the YAML files and their comments, so that it is always true."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreambooth.cli.configuration.configs import CONF, files_of, groups_of

WIDTH, COLUMN = 80, 32  # characters in a line, and before a note
KEY = re.compile(r"( *(?:- )?)(\w+):(?: +[^ #]+)*(?: +# (.*))?$")  # indentation, key, note
FLAGS = {
    "-m": "run once for each combination of values, given as key=a,b",
    "--config-dir DIR": "also read your own files, such as DIR/experiment/NAME.yaml",
    "--cfg job": "print the composed configuration and stop",
    "--hydra-help": "list Hydra's other flags",
}


@dataclass
class Comments:
    """What a YAML file's comments say; keys are dotted and in the file's order."""

    description: list[str] = field(default_factory=list)  # the lines at its top
    titles: dict[str, str] = field(default_factory=dict)  # first key of a section => its title
    notes: dict[str, str] = field(default_factory=dict)  # key => its explanation, "" without one


def help_of(command: str, config: DictConfig) -> str:
    """Describe a command, its groups and every key, with the values of the composed `config`."""
    sources = config.hydra.runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    choices, groups = config.hydra.runtime.choices, groups_of(command)
    own = read_comments(CONF / f"{command}.yaml")
    lines = _paragraphs([f"{command}: {own.description[0]}", *own.description[1:]])
    if groups:
        lines += ["", "Groups (group=choice): a choice sets all keys of its group"]
    for group in groups:
        lines += _entry(f"{group}={choices[group] or 'null'}", own.notes[f"defaults.{group}"])
        names = [path.stem for path in files_of(group, folders) if path.stem[0] != "_"]
        lines += _wrapped(", ".join(names), " " * 6)
    skipped = ("defaults", "hydra", *groups)
    keys = [key for key in own.notes if key.partition(".")[0] not in skipped]
    own.titles.setdefault(keys[0], "Keys (key=value)")
    for key in keys:
        lines += ["", own.titles[key]] if key in own.titles else []
        is_block = any(other.startswith(f"{key}.") for other in keys)
        lines += _line(config, key, own.notes[key], is_block)
    for group in groups:
        if isinstance(config.get(group), DictConfig):
            notes, description = _comments_of(group, choices[group], folders)
            lines += ["", *_wrapped(f"{group}={choices[group]}: {description}", "")]
            for key, is_block in _keys(config[group]):
                note = own.notes.get(f"{group}.{key}") or notes.get(key, "")
                lines += _line(config, f"{group}.{key}", note, is_block)
    lines += ["", "Flags"]
    for flag, note in FLAGS.items():
        lines += _entry(flag, note)
    return "\n".join(lines)


def read_comments(path: Path) -> Comments:
    """Read the comments of a YAML file.

    The comment lines at the top describe the file. The first comment line after an empty line is
    the title of a section. The note of a key is the comment behind it, with the lines that
    continue it further to the right, or else the comment lines directly above it.
    """
    lines, found = path.read_text().splitlines(), Comments()
    top = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    found.description = [line[2:] for line in lines[:top] if not line.startswith("# @package")]
    parents: dict[int, str] = {}  # indentation => key
    above, title, key, column, after_empty = [], "", "", 0, False
    for line in lines[top:]:
        note = line.strip().lstrip("# ")
        if not line.strip().startswith("#"):
            if match := KEY.match(line):
                indent = len(match[1])
                parents = {i: k for i, k in parents.items() if i < indent} | {indent: match[2]}
                key, column = ".".join(parents.values()), line.find("#")
                found.notes[key] = match[3] or " ".join(above)
                found.titles |= {key: title} if title else {}
                title = ""
            above = []
        elif 0 < column <= line.index("#"):
            found.notes[key] += f" {note}"
        elif after_empty:
            title = note
        else:
            above.append(note)
        after_empty = not line.strip()
    return found


def _comments_of(group: str, choice: str, folders: list[Path]) -> tuple[Mapping[str, str], str]:
    """Notes of a group's keys and the description of a choice.

    What the choice's file does not explain, a file that it is based on does, or any of the group.
    """
    files = {path.stem: path for path in files_of(group, folders)}
    chain = [choice]
    for name in chain:
        bases = (yaml.safe_load(files[name].read_text()) or {}).get("defaults", [])
        chain += [base for base in bases if isinstance(base, str) and base in files]
    notes: dict[str, str] = {}
    for name in (*chain, *files):
        for key, note in read_comments(files[name]).notes.items():
            notes[key] = notes.get(key) or note
    return notes, " ".join(read_comments(files[choice]).description)


def _keys(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every key below a node and whether it is a block, whose keys follow it."""
    for key, child in node.items_ex(resolve=False):
        is_block = isinstance(child, DictConfig) and len(child) > 0
        yield f"{prefix}{key}", is_block
        if is_block:
            yield from _keys(child, f"{prefix}{key}.")


def _line(config: DictConfig, key: str, note: str, is_block: bool) -> list[str]:
    """The lines of `key=value` and its note; a block is shown by name, if it has a note."""
    if is_block:
        return _entry(key, note) if note else []
    parent, _, last = key.rpartition(".")
    block: Any = OmegaConf.select(config, parent) if parent else config
    written: Any = OmegaConf.to_container(block, resolve=False)
    value = written[last]
    try:
        if "${hydra:" not in str(value):  # else it is known only when a run starts
            value = OmegaConf.select(config, key, throw_on_missing=True)
            value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        pass  # a key that has to be given, or that depends on one
    note = f"required: {note}" if value == "???" else note
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    return _entry(textwrap.shorten(f"{key}={text}", WIDTH - 2, placeholder=" ..."), note)


def _entry(text: str, note: str) -> list[str]:
    """A text with its note beside it, or below it where the text is long."""
    notes = textwrap.wrap(note, WIDTH - COLUMN, break_on_hyphens=False)
    first = f"  {text}"
    if notes and len(first) < COLUMN:
        first = f"{first:{COLUMN}}{notes.pop(0)}"
    return [first, *(" " * COLUMN + line for line in notes)]


def _paragraphs(lines: list[str]) -> list[str]:
    """Wrap text; an indented line stays as it is."""
    done, text = [], ""
    for line in [*lines, "  "]:
        if line.startswith("  "):
            done += [*textwrap.wrap(text, WIDTH), line]
            text = ""
        else:
            text = f"{text} {line}".strip()
    return done[:-1]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent or "  ")
