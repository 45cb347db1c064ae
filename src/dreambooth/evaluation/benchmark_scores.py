"""Score a benchmark subject by subject; what is done is kept, so that it can be stopped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.evaluation.benchmark import Benchmark, SubjectImages
from dreambooth.evaluation.evaluate import explain
from dreambooth.evaluation.networks import NEEDS, Encoders
from dreambooth.evaluation.record import References, Scores
from dreambooth.evaluation.score import score
from dreambooth.evaluation.write import read_scores, write_scores
from dreambooth.files import cache_key, file_hash
from dreambooth.metrics.preprocess import image_digest
from dreambooth.sampling.progress import progress_bar

VERSION = 1  # of what the kept scores of a subject hold
_PER_PROMPT = re.compile(r"^(div(?:_class)?\..*\.within_prompt\.)(\d+)(?:to(\d+))?$")

Photos = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class BenchmarkScoring:
    """Scores of a benchmark's images against its subjects' photos, in `output`/subjects/<name>.

    A subject whose images, photos, networks and metrics are those of its kept scores is not scored
    again.
    """

    benchmark: Benchmark
    photos: Photos
    encoders: Encoders
    metrics: Sequence[str]
    output: Path

    def run(self) -> dict[str, Scores]:
        """Score every subject, with a bar; return the scores by subject.

        The number of images per prompt in a DIV id is that of the whole benchmark (`3to4` where it
        differs), for subjects are averaged under one id.

        Raises:
            UserError: images that cannot be scored.
        """
        keys = {subject.name: self._key(subject) for subject in self.benchmark.subjects}
        scored = {name: kept for name, key in keys.items() if (kept := self._kept(name, key))}
        left = [subject for subject in self.benchmark.subjects if subject.name not in scored]
        images = sum(len(subject.items) for subject in left)
        networks = {NEEDS[metric] for metric in self.metrics}
        with progress_bar("Scoring", images * len(networks)) as advance:
            for subject in left:
                scores = self._scored(subject, advance)
                scored[subject.name] = scores
                record = {"key": keys[subject.name], "notes": scores.notes}
                write_scores(self._folder(subject.name), scores, {**record, **self._facts(subject)})
        return alike({subject.name: scored[subject.name] for subject in self.benchmark.subjects})

    def gallery(self, name: str) -> dict[str, Sequence[Path]]:
        """Return the photos of the other subjects of a subject's class."""
        nouns = self.benchmark.class_nouns
        alike = [other for other in nouns if other != name and nouns[other] == nouns[name]]
        return {other: self.photos[other] for other in alike}

    def _scored(self, subject: SubjectImages, advance: Callable[[int], None]) -> Scores:
        folder = self.benchmark.spec.folder
        files = [folder / item.file for item in subject.items]
        self.encoders.extract(subject.items, files, advance)
        references = References(self.photos[subject.name], self.gallery(subject.name))
        counts = Counter(item.prompt for item in subject.items if item.set == "subject")
        has_pairs = max(counts.values(), default=0) > 1
        metrics = [metric for metric in self.metrics if metric != "div" or has_pairs]
        scores = score(subject.items, files, references, self.encoders, metrics)
        if len(metrics) < len(self.metrics):
            scores.notes.append("No prompt has two images, so DIV is not scored.")
        if self.encoders.distance is not None:
            advance(len(files))
        return scores

    def _facts(self, subject: SubjectImages) -> dict[str, Any]:
        own = {"subject": asdict(subject.words), "gallery": sorted(self.gallery(subject.name))}
        return own | explain(self.photos[subject.name], "photos", self.encoders)

    def _key(self, subject: SubjectImages) -> str:
        """Hash everything that the scores of a subject depend on."""
        folder, gallery = self.benchmark.spec.folder, self.gallery(subject.name)
        return cache_key(
            version=VERSION,
            images=[[asdict(item), image_digest(folder / item.file)] for item in subject.items],
            photos=[file_hash(path) for path in self.photos[subject.name]],
            gallery={name: [file_hash(path) for path in gallery[name]] for name in gallery},
            encoders=self.encoders.ids,
            metrics=list(self.metrics),
        )

    def _kept(self, name: str, key: str) -> Scores | None:
        """Read the scores of an earlier run; None if they are of anything else, or damaged."""
        try:
            scores, record = read_scores(self._folder(name))
            if record["key"] != key:
                return None
            scores.notes = list(record["notes"])
        except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return scores

    def _folder(self, name: str) -> Path:
        return self.output / "subjects" / name


def alike(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """Give one DIV id to subjects whose prompts have different numbers of images."""
    counts: dict[str, set[int]] = {}
    for each in scores.values():
        for variant in each.summary:
            if found := _PER_PROMPT.match(variant):
                numbers = {int(number) for number in found.groups()[1:] if number}
                counts.setdefault(found[1], set()).update(numbers)

    def renamed(variant: str) -> str:
        found = _PER_PROMPT.match(variant)
        if not found:
            return variant
        low, high = min(counts[found[1]]), max(counts[found[1]])
        return f"{found[1]}{low}" + (f"to{high}" if high > low else "")

    return {
        name: Scores(
            [{renamed(key): value for key, value in row.items()} for row in each.rows],
            {renamed(variant): entry for variant, entry in each.summary.items()},
            each.notes,
        )
        for name, each in scores.items()
    }


def notes_of(scores: Mapping[str, Scores]) -> list[str]:
    """List the notes on what was not scored, each once, with the number of subjects."""
    counts = Counter(note for each in scores.values() for note in dict.fromkeys(each.notes))
    return [f"{note} ({count} of {len(scores)} subjects)" for note, count in counts.items()]
