"""Every command that the documentation shows has keys and choices that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from dreambooth.cli.configuration.configs import COMMANDS, CONF, files_of, groups_of, keys_of

NAMES = "|".join(COMMANDS)
COMMAND = re.compile(rf"(?:python |dreambooth )({NAMES})(?:\.py)?(?= )((?:[^\n`\\]|\\\n)*)")
PLACEHOLDERS = ("NAME", "...")


def shown() -> Iterator[tuple[str, str, str]]:
    """A file, a command and an override of it, of README.md, docs/ and the files of conf/."""
    root = CONF.parent
    files = [root / "README.md", *(root / "docs").rglob("*.md"), *CONF.rglob("*.yaml")]
    for file in sorted(files):
        for found in COMMAND.finditer(file.read_text()):
            arguments = shlex.split(found[2].replace("\\\n", " "), comments=True)
            for argument in arguments:
                if re.match(r"[\w.]+=", argument):
                    yield str(file.relative_to(root)), found[1], argument


@pytest.mark.skipif(not (CONF.parent / "docs").is_dir(), reason="a wheel has no documentation")
def test_every_command_has_keys_and_choices_that_exist():
    keys = {command: keys_of(command, [CONF]) for command in COMMANDS}
    groups = {command: groups_of(command) for command in COMMANDS}
    wrong, checked = [], 0
    for place in shown():
        file, command, argument = place
        key, _, value = argument.partition("=")
        checked += 1
        if not key.startswith("hydra.") and key not in keys[command]:
            wrong.append(place)
        if key in groups[command] and value not in PLACEHOLDERS:
            names = {path.stem for path in files_of(key, [CONF])}
            wrong += [place for name in value.split(",") if name not in names]
    assert not wrong and checked > 300, wrong
