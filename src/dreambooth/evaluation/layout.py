"""Where the images of a benchmark lie: a pattern of file names => subject, prompt and seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from dreambooth.data.photos import SUFFIXES
from dreambooth.errors import UserError

_NAME = r"[^/]+?"
FIELDS = {
    "subject": _NAME,
    "prompt": _NAME,
    "prompt_index": r"\d+",
    "seed": r"\d+",
}
_EXAMPLE = "layout='{subject}/{prompt}/{seed}.png'"


@dataclass(frozen=True)
class Place:
    """What a file's name says of its image.

    `prompt` is a text, a slug or a number, as it stands in the name; `seed` is -1 where the layout
    has none.
    """

    subject: str
    prompt: str
    seed: int


class Layout:
    """A pattern such as `{subject}/{prompt}/{seed}.png`.

    `{prompt}` is a text, a slug or a number, `{prompt_index}` a number; `*` is anything within one
    name. Images of every usual format fit, whatever suffix the pattern has.

    >>> Layout("{subject}/{prompt_index}_{seed}.png", ["cat2"]).place("cat2/03_1.jpg")
    Place(subject='cat2', prompt='03', seed=1)

    Args:
        subjects: the names of the subjects that there are. They decide where a name such as
            `backpack_dog_in_snow` divides, may have spaces or dashes for their underscores, and
            count in any case.

    Raises:
        UserError: a pattern without subject or prompt, or with another field.
    """

    def __init__(self, pattern: str, subjects: Iterable[str]) -> None:
        self.pattern = pattern
        self._names = {_plain(name): name for name in subjects}
        self._known = re.compile(self._regex(self._any_subject()), re.IGNORECASE)
        self._other = re.compile(self._regex(_NAME), re.IGNORECASE)

    def place(self, file: str) -> Place | None:
        """Read the name of a file, relative to the benchmark's folder; None where it does not fit.

        A subject that is none of the known ones is returned as it is written.
        """
        path = PurePosixPath(file)
        if path.suffix.lower() not in SUFFIXES:
            return None
        stem = str(path.with_suffix(""))
        found = self._known.fullmatch(stem) or self._other.fullmatch(stem)
        if found is None:
            return None
        parts = found.groupdict()
        subject = self._names.get(_plain(parts["subject"]), parts["subject"])
        prompt = parts.get("prompt") or parts["prompt_index"]
        return Place(subject, prompt, int(parts.get("seed") or -1))

    def _any_subject(self) -> str:
        longest_first = sorted(self._names, key=len, reverse=True)
        return "|".join(re.escape(name).replace("_", "[ _-]") for name in longest_first) or _NAME

    def _regex(self, subject: str) -> str:
        text = self.pattern.strip("/")
        if PurePosixPath(text).suffix.lower() in SUFFIXES:
            text = str(PurePosixPath(text).with_suffix(""))
        parts, seen = [], set()
        for literal, field in re.findall(r"([^{}]*)(?:\{([^{}]*)\}|$)", text):
            parts.append(re.escape(literal).replace(r"\*", "[^/]*?"))
            if not field:
                continue
            if field not in FIELDS or field in seen:
                what = "twice" if field in seen else f"which is none of {', '.join(FIELDS)}"
                raise UserError(f"layout={self.pattern} has the field {{{field}}}, {what}.")
            seen.add(field)
            parts.append(f"(?P<{field}>{subject if field == 'subject' else FIELDS[field]})")
        if "subject" not in seen or len(seen & {"prompt", "prompt_index"}) != 1:
            raise UserError(
                f"layout={self.pattern} must say where the subject and the prompt stand, by "
                f"{{subject}} and by one of {{prompt}} and {{prompt_index}}: as in {_EXAMPLE}."
            )
        return "".join(parts)


def _plain(name: str) -> str:
    return re.sub(r"[ -]", "_", name).lower()
