"""A benchmark of anyone's images, read from its folder: subjects, prompts, what is missing."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from dreambooth.data.photos import SUFFIXES, load_photo
from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.data.subjects import suggest
from dreambooth.errors import UserError
from dreambooth.evaluation.layout import Layout, Place
from dreambooth.evaluation.prompt_names import PromptName, find_prompt, number_of
from dreambooth.files import read_csv
from dreambooth.sampling.progress import progress_bar
from dreambooth.sampling.store import SETS, Item

Words = Mapping[str, SubjectWords]
"""The words of each subject that has photos, by its name; `phrase` is not used."""


@dataclass(frozen=True)
class Named:
    """An image as its name or its row of a manifest describes it.

    `class_only` is the prompt without the identifier where a manifest states it, else empty.
    """

    file: str
    place: Place
    class_only: str = ""
    set: str = ""


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

    def read(self, words: Words) -> Benchmark:
        """List the images of the benchmark by their names; none is opened.

        Raises:
            UserError: no such folder, no image that fits, or a subject or prompt that is not known.
        """
        if not self.folder.is_dir():
            raise UserError(f"tree={self.folder} is not a folder: give that of the images.")
        prompt_set(self.prompts, live=False)
        strangers: list[str] = []
        if self.manifest is None:
            named, strangers = self._by_layout(words)
        else:
            named = self._by_manifest(self.manifest)
        unknown = next((n for n in named if n.place.subject not in words), None)
        if unknown is not None:
            what = suggest(unknown.place.subject, words)
            raise UserError(f"{self.folder / unknown.file}: {what}")
        start = self._start(named)
        subjects = [
            self._subject(name, words[name], list(images), start)
            for name, images in groupby(sorted(named, key=_order), key=lambda n: n.place.subject)
        ]
        absent = sorted(set(words) - {subject.name for subject in subjects})
        nouns = {name: own.class_noun for name, own in sorted(words.items())}
        return Benchmark(self, subjects, nouns, absent, strangers)

    # -- names ------------------------------------------------------------------------------

    def _by_layout(self, words: Words) -> tuple[list[Named], list[str]]:
        """Read every image below the folder; also list those that do not fit the layout."""
        layout = Layout(self.layout, words)
        files = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        shown = [file for file in files if not any(n.startswith(".") for n in file.split("/"))]
        places = {file: layout.place(file) for file in shown}
        if not any(places.values()):
            example = f", such as {next(iter(places))}" if places else ""
            raise UserError(
                f"tree={self.folder} has {len(places)} images{example}, and none fits "
                f"layout={self.layout}: say by {{subject}}, {{prompt}} or {{prompt_index}}, "
                "{seed} and * how the files are named, or give manifest=FILE."
            )
        named = [Named(file, place) for file, place in places.items() if place]
        return named, [file for file, place in places.items() if not place]

    def _by_manifest(self, path: Path) -> list[Named]:
        """Read the rows of a manifest."""
        named, seen = [], set()
        for row in read_csv(path):
            for column in ("file", "subject", "prompt"):
                if not row.get(column):
                    raise UserError(f"{path} lacks {column} in some row: every image needs it.")
            if row["file"] in seen:
                raise UserError(f"{path} names {row['file']} twice: an image counts once.")
            seen.add(row["file"])
            kind, seed = row.get("set") or "", row.get("seed") or ""
            if kind not in ("", *SETS):
                raise UserError(f"{path}: set={kind} is not one of {', '.join(SETS)}.")
            place = Place(row["subject"], row["prompt"], int(seed) if seed.isdigit() else -1)
            named.append(Named(row["file"], place, row.get("class_only") or "", kind))
        if not named:
            raise UserError(f"{path} names no images: write a row for each.")
        return named

    # -- prompts ----------------------------------------------------------------------------

    def _start(self, named: Sequence[Named]) -> int:
        """Return the number of the first prompt: as set, or as the numbers tell."""
        numbers = {n: number_of(n.place.prompt) for n in named if not n.class_only}
        found = {number: n.file for n, number in numbers.items() if number is not None}
        count = len(prompt_set(self.prompts, live=False))
        start = self.first_index
        if start is None:
            start = 0 if 0 in found or not found else 1
            if found and not {0, count} & found.keys():
                raise UserError(
                    f"The prompts of tree={self.folder} have numbers from {min(found)} to "
                    f"{max(found)}, of {count} prompts: pass first_index=0 or first_index=1."
                )
        for number in (min(found, default=start), max(found, default=start)):
            if not start <= number < start + count:
                raise UserError(
                    f"{self.folder / found[number]}: there is no prompt {number}, for the "
                    f"{count} of prompts={self.prompts} have the numbers {start} to "
                    f"{start + count - 1}."
                )
        return start

    def _subject(
        self, name: str, words: SubjectWords, images: Sequence[Named], start: int
    ) -> SubjectImages:
        """Find the prompt of each image of one subject.

        Raises:
            UserError: a prompt that is none of the set, or two names of the subject.
        """
        templates = prompt_set(self.prompts, words.live)
        own = SubjectImages(name, words)
        phrases: dict[str, str] = {}  # with a file that has it
        for image in images:
            meant = self._meant(image, templates, words.class_noun, start)
            if meant.phrase:
                phrases.setdefault(meant.phrase, image.file)
            own.templates.append(meant.template or "")
            own.items.append(self._item(image, meant, words))
        if len(phrases) > 1:
            (one, first), (other, second) = list(phrases.items())[:2]
            raise UserError(
                f'The prompts of {name} name it in two ways, "{one}" ({first}) and "{other}" '
                f"({second}): give manifest=FILE with the columns file, subject, prompt and "
                "class_only."
            )
        return own

    def _meant(self, image: Named, templates: Sequence[str], noun: str, start: int) -> PromptName:
        if image.class_only:
            is_class = image.set == "class" or not image.set and image.class_only == f"a {noun}"
            return PromptName(None if is_class else image.class_only)
        number = number_of(image.place.prompt)
        if number is not None:
            return PromptName(templates[number - start])
        meant = find_prompt(image.place.prompt, templates, noun)
        if meant is None:
            raise UserError(
                f'{self.folder / image.file}: "{image.place.prompt}" is none of the '
                f"{len(templates)} prompts of prompts={self.prompts} for a {noun}: correct it, or "
                "give manifest=FILE with the columns file, subject, prompt and class_only."
            )
        return PromptName(None) if image.set == "class" else meant

    def _item(self, image: Named, meant: PromptName, words: SubjectWords) -> Item:
        """Describe an image; a text with spaces is the prompt as it was."""
        place = image.place
        if meant.template is None:
            plain = image.class_only or words.class_prompt
            return Item("class", image.file, plain, plain, place.seed)
        plain = image.class_only or fill(meant.template, None, words.class_noun)
        if image.class_only or meant.phrase and " " in place.prompt:
            prompt = place.prompt
        elif meant.phrase or self.identifier:
            phrase = meant.phrase or f"{self.identifier} {words.class_noun}"
            prompt = fill(meant.template, None, phrase)
        else:
            prompt = plain
        return Item("subject", image.file, prompt, plain, place.seed)


@dataclass(frozen=True)
class Benchmark:
    """The images of a benchmark by subject.

    `class_nouns` has every known subject, with images or not. `absent` are known subjects without
    any image, `strangers` files that do not fit the layout, and `unreadable` reasons by file.
    """

    spec: BenchmarkSpec
    subjects: Sequence[SubjectImages]
    class_nouns: Mapping[str, str]
    absent: Sequence[str]
    strangers: Sequence[str]
    unreadable: Mapping[str, str] = field(default_factory=dict)

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
        unreadable = {}
        with progress_bar("Reading images", len(files)) as advance:
            for file in files:
                try:
                    load_photo(self.spec.folder / file)
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
        return replace(self, subjects=[s for s in left if s.items], unreadable=unreadable)

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
            notes.append(f"{len(self.absent)} of {known} subjects have no images: {names}.")
        short = [gap for gap in gaps if gap.prompt and not gap.reason]
        if short:
            lacking = sum(gap.expected - gap.found for gap in short)
            first, subjects = short[0], {gap.subject for gap in short}
            notes.append(
                f"{lacking} images are missing, of {len(short)} prompts of {len(subjects)} "
                f'subjects; first {first.subject}, "{first.prompt}": {first.found} of '
                f"{first.expected}."
            )
        if self.unreadable:
            first = next(iter(self.unreadable.values()))
            notes.append(
                f"{len(self.unreadable)} images cannot be read and are not scored; first {first}."
            )
        if self.strangers:
            notes.append(
                f"{len(self.strangers)} files do not fit layout={self.spec.layout} and are not "
                f"scored; first {self.strangers[0]}."
            )
        return notes


def _order(named: Named) -> tuple[str, str]:
    return named.place.subject, named.file
