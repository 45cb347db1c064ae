"""Read a benchmark from its folder: which subject and which prompt each image is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath

from dreambooth.data.photos import SUFFIXES
from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.errors import UserError, suggest
from dreambooth.evaluation.benchmark import Benchmark, BenchmarkSpec, SubjectImages
from dreambooth.evaluation.layout import Layout, Place
from dreambooth.evaluation.prompt_names import PromptName, find_prompt, number_of
from dreambooth.files import read_csv
from dreambooth.sampling.manifest import Item

KINDS = ("subject", "class")  # of images, as a manifest names them
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


@dataclass(frozen=True)
class BenchmarkReader:
    """Reads the names of a benchmark's images, or their manifest; `words` are of known subjects."""

    spec: BenchmarkSpec
    words: Words

    def read(self) -> Benchmark:
        """List the images of the benchmark by their names; none is opened.

        Raises:
            UserError: no such folder, no image that fits, or a subject or prompt that is not known.
        """
        if not self.spec.folder.is_dir():
            raise UserError(f"tree={self.spec.folder} is not a folder: give that of the images.")
        prompt_set(self.spec.prompts, live=False)
        strangers: list[str] = []
        if self.spec.manifest is None:
            named, strangers = self._by_layout()
        else:
            named = self._by_manifest(self.spec.manifest)
        unknown = next((n for n in named if n.place.subject not in self.words), None)
        if unknown is not None:
            what = suggest(unknown.place.subject, self.words)
            needs = "a subject needs a folder in photos.root and a file in conf/subject"
            raise UserError(f"{self.spec.folder / unknown.file}: {what} ({needs})")
        start = self._start(named)
        subjects = [
            self._subject(name, list(images), start)
            for name, images in groupby(sorted(named, key=_order), key=lambda n: n.place.subject)
        ]
        absent = sorted(set(self.words) - {subject.name for subject in subjects})
        nouns = {name: own.class_noun for name, own in sorted(self.words.items())}
        return Benchmark(self.spec, subjects, nouns, absent, strangers)

    # -- names ------------------------------------------------------------------------------

    def _by_layout(self) -> tuple[list[Named], list[str]]:
        """Read every image below the folder; also list those that do not fit the layout."""
        layout = Layout(self.spec.layout, self.words)
        files = sorted(
            path.relative_to(self.spec.folder).as_posix()
            for path in self.spec.folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        shown = [file for file in files if not any(n.startswith(".") for n in file.split("/"))]
        places = {file: layout.place(file) for file in shown}
        if not any(places.values()):
            example = f", such as {next(iter(places))}" if places else ""
            raise UserError(
                f"tree={self.spec.folder} has {len(places)} images{example}, and none fits "
                f"layout={self.spec.layout}: say by {{subject}}, {{prompt}} or {{prompt_index}}, "
                "{seed} and * how the files are named, or give manifest=FILE."
            )
        named, stems = [Named(file, place) for file, place in places.items() if place], {}
        for image in named:
            stem = str(PurePosixPath(image.file).with_suffix(""))
            if (first := stems.setdefault(stem, image.file)) != image.file:
                raise UserError(
                    f"{first} and {image.file} of tree={self.spec.folder} are two files of one "
                    "image: take one out."
                )
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
            if kind not in ("", *KINDS):
                raise UserError(f"{path}: set={kind} is not one of {', '.join(KINDS)}.")
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
        count = len(prompt_set(self.spec.prompts, live=False))
        start = self.spec.first_index
        if start is None:
            start = 0 if 0 in found or not found else 1
            if found and not {0, count} & found.keys():
                raise UserError(
                    f"The prompts of tree={self.spec.folder} have numbers from {min(found)} to "
                    f"{max(found)}, of {count} prompts: pass first_index=0 or first_index=1."
                )
        for number in (min(found, default=start), max(found, default=start)):
            if not start <= number < start + count:
                raise UserError(
                    f"{self.spec.folder / found[number]}: there is no prompt {number}, for the "
                    f"{count} of prompts={self.spec.prompts} have the numbers {start} to "
                    f"{start + count - 1}."
                )
        return start

    def _subject(self, name: str, images: Sequence[Named], start: int) -> SubjectImages:
        """Find the prompt of each image of one subject.

        Raises:
            UserError: a prompt that is none of the set, or two names of the subject.
        """
        words = self.words[name]
        templates = prompt_set(self.spec.prompts, words.live)
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
                f'{self.spec.folder / image.file}: "{image.place.prompt}" is none of the '
                f"{len(templates)} prompts of prompts={self.spec.prompts} for a {noun}: correct "
                "it, or give manifest=FILE with the columns file, subject, prompt and class_only."
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
        elif meant.phrase or self.spec.identifier:
            phrase = meant.phrase or f"{self.spec.identifier} {words.class_noun}"
            prompt = fill(meant.template, None, phrase)
        else:
            prompt = plain
        return Item("subject", image.file, prompt, plain, place.seed)


def _order(named: Named) -> tuple[str, str]:
    return named.place.subject, named.file
