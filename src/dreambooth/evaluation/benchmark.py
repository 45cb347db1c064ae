"""A benchmark of anyone's images: its subjects, their images, and what is missing."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dreambooth.data.photos import load_photo
from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.errors import UserError
from dreambooth.sampling.manifest import Item
from dreambooth.sampling.progress import progress_bar


@dataclass(frozen=True)
class BenchmarkSpec:
    """What to read: a folder by a layout or a manifest, and the prompts that it should have.

    Attributes:
        manifest: a CSV with file (relative to the folder), subject, prompt; also class_only, seed,
            set. None reads the names of files by `layout`.
        prompts: the prompt set that numbers, texts and slugs belong to.
        images_per_prompt: how many images each prompt should have.
        identifier: the word before the class noun, where names do not have it.
        first_index: the number of the first prompt, 0 or 1; None finds it out.
    """

    folder: Path
    layout: str
    manifest: Path | None
    prompts: str
    images_per_prompt: int
    identifier: str | None
    first_index: int | None


@dataclass
class SubjectImages:
    """The images of one subject; `templates` has each image's, empty for the class prompt.

    A manifest's own prompt is its own template.
    """

    name: str
    words: SubjectWords
    items: list[Item] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)

    def without(self, files: Container[str]) -> SubjectImages:
        """Return a copy without some files."""
        pairs = zip(self.items, self.templates, strict=True)
        kept = [(item, template) for item, template in pairs if item.file not in files]
        return replace(self, items=[i for i, _ in kept], templates=[t for _, t in kept])

    def gaps(self, prompts: str, expected: int) -> Iterator[Gap]:
        """List the prompts with fewer than `expected` images.

        Those of a manifest that states its own prompts, else those of the prompt set.
        """
        own = [template for template in self.templates if template]
        from_set = not own or any("{subject}" in template for template in own)
        wanted = prompt_set(prompts, self.words.live) if from_set else dict.fromkeys(own)
        for template in wanted:
            if (found := own.count(template)) < expected:
                prompt = fill(template, None, self.words.class_noun)
                yield Gap(self.name, prompt, found, expected)


@dataclass(frozen=True)
class Gap:
    """Images that a benchmark lacks: of a prompt, or a file that cannot be read, with the reason.

    A subject without any image is one gap; its `prompt` is empty.
    """

    subject: str
    prompt: str
    found: int
    expected: int
    reason: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The images of a benchmark by subject.

    `class_nouns` has every known subject, with images or not. `absent` are known subjects without
    any image, `strangers` files that do not fit the layout, `unreadable` reasons by file, and
    `black` files whose image is black, as a safety checker leaves it.
    """

    spec: BenchmarkSpec
    subjects: Sequence[SubjectImages]
    class_nouns: Mapping[str, str]
    absent: Sequence[str]
    strangers: Sequence[str]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    black: Sequence[str] = ()

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(len(subject.items) for subject in self.subjects)

    def readable(self) -> Benchmark:
        """Open every image, one at a time, and leave out those that cannot be read.

        Raises:
            UserError: none can be read.
        """
        files = [item.file for subject in self.subjects for item in subject.items]
        unreadable, black = {}, []
        with progress_bar("Reading images", len(files)) as advance:
            for file in files:
                try:
                    image = load_photo(self.spec.folder / file)
                    if image.getbbox() is None:  # all pixels are 0
                        black.append(file)
                except FileNotFoundError:
                    unreadable[file] = f"{file} is not there"
                except UserError as error:
                    unreadable[file] = str(error).rstrip(".")
                advance(1)
        left = [subject.without(unreadable) for subject in self.subjects]
        if len(unreadable) == len(files):
            raise UserError(
                f"none of the {len(files)} images of tree={self.spec.folder} can be read; first "
                f"{next(iter(unreadable.values()))}."
            )
        left = [subject for subject in left if subject.items]
        return replace(self, subjects=left, unreadable=unreadable, black=black)

    @property
    def gaps(self) -> list[Gap]:
        """What is missing: whole subjects, images of prompts, files that cannot be read."""
        each = self.spec.images_per_prompt
        whole = each * len(prompt_set(self.spec.prompts, live=False))
        gaps = [Gap(name, "", 0, whole) for name in self.absent]
        gaps += [gap for subject in self.subjects for gap in subject.gaps(self.spec.prompts, each)]
        return gaps + [Gap("", file, 0, 1, reason) for file, reason in self.unreadable.items()]

    @property
    def notes(self) -> list[str]:
        """What is missing, in sentences; nothing where the benchmark is complete."""
        notes, gaps = [], self.gaps
        if self.absent:
            known = len(self.absent) + len(self.subjects)
            names = ", ".join(self.absent)
            notes.append(f"{known} subjects are known, {len(self.absent)} without images: {names}.")
        short = [gap for gap in gaps if gap.prompt and not gap.reason]
        if short:
            lacking = sum(gap.expected - gap.found for gap in short)
            first, subjects = short[0], dict.fromkeys(gap.subject for gap in short)
            notes.append(
                f"Missing images: {lacking}, in {len(short)} prompts ({', '.join(subjects)}); "
                f'first {first.subject}, "{first.prompt}": {first.found} of {first.expected}.'
            )
        if self.unreadable:
            first = next(iter(self.unreadable.values()))
            count = len(self.unreadable)
            notes.append(f"Images that cannot be read and are not scored: {count}; first {first}.")
        if self.black:
            notes.append(
                f"Black images, which are scored as they are: {len(self.black)}; first "
                f"{self.black[0]}."
            )
        if self.strangers:
            notes.append(
                f"Images that do not fit layout={self.spec.layout} and are not scored: "
                f"{len(self.strangers)}; first {self.strangers[0]}."
            )
        return notes
