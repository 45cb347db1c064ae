"""evaluate.py tree=DIR: score a whole benchmark of anyone's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dreambooth.cli.configuration.configs import CONF, files_of
from dreambooth.cli.configuration.subjects import known_subjects
from dreambooth.cli.refusals.suggest import no_choice
from dreambooth.errors import UserError
from dreambooth.evaluation.benchmark import Benchmark, BenchmarkSpec
from dreambooth.evaluation.benchmark_reader import BenchmarkReader
from dreambooth.evaluation.benchmark_scores import BenchmarkScoring, notes_of
from dreambooth.evaluation.calibrate import dataset_photos
from dreambooth.evaluation.networks import Encoders
from dreambooth.evaluation.write import refuse_copies
from dreambooth.files import write_json
from dreambooth.study.answers.published import Published
from dreambooth.study.benchmark_tables import benchmark_answer, print_benchmark, write_benchmark
from dreambooth.training.logs.costs import Costs

Photos = Mapping[str, Sequence[Path]]


class BenchmarkCommand:
    """What `tree=DIR` names: the images by their names, and the photos of their subjects.

    Making one opens no image and loads no network.

    Raises:
        UserError: a folder, a layout, a subject or a prompt that cannot be used.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.published = _published(cfg.published)
        root = cfg.photos if isinstance(cfg.photos, str) else cfg.photos.root
        photos, words = dataset_photos(root, cfg.cache_dir), known_subjects()
        self.photos: Photos = {name: photos[name] for name in sorted(photos) if name in words}
        spec = BenchmarkSpec(
            Path(cfg.tree),
            cfg.layout,
            None if cfg.manifest is None else Path(cfg.manifest),
            cfg.prompts,
            cfg.images_per_prompt,
            cfg.identifier,
            cfg.first_index,
        )
        self.benchmark = BenchmarkReader(spec, {name: words[name] for name in self.photos}).read()
        self.output = Path(cfg.output_dir or spec.folder / "scores")

    def run(self, encoders: Encoders, metrics: Sequence[str]) -> None:
        """Open every image, score, write the tables and print them.

        Raises:
            UserError: images that are copies of photos, or that cannot be scored.
        """
        console, costs = Console(), Costs()
        refuse_copies(self._files(self.benchmark), [p for ps in self.photos.values() for p in ps])
        with costs.stage("evaluation"):
            benchmark = self.benchmark.readable()
            for note in benchmark.notes:
                console.print(note, markup=False, highlight=False)
            scoring = BenchmarkScoring(benchmark, self.photos, encoders, metrics, self.output)
            scores = scoring.run()
        notes = [*benchmark.notes, *notes_of(scores)]
        answer = benchmark_answer(benchmark, scores, self.published, notes)
        written = write_benchmark(self.output, benchmark, scores, answer)
        record = {
            "evaluation": "benchmark",
            "folder": str(benchmark.spec.folder),
            "layout": benchmark.spec.layout,
            "prompts": benchmark.spec.prompts,
            "images": benchmark.count,
            "metrics": list(metrics),
            "encoders": {"family": encoders.family, **encoders.ids},
            "classes": dict(benchmark.class_nouns),
            "notes": notes,
            "scores": {
                variant: {
                    "mean": mean.value,
                    "interval_95": mean.interval,
                    "subjects": mean.subjects,
                }
                for variant, mean in answer.rows[0].scores.items()
            },
            "cost": costs.record,
        }
        write_json(self.output / "metrics.json", record)
        print_benchmark(console, benchmark, scores, answer)
        print("\n".join(str(path) for path in (*written, self.output / "metrics.json")))

    @staticmethod
    def _files(benchmark: Benchmark) -> list[Path]:
        folder = benchmark.spec.folder
        files = (folder / i.file for subject in benchmark.subjects for i in subject.items)
        return [file for file in files if file.is_file()]


def _published(name: str | None) -> Published:
    """Read the published numbers of a preset; nothing without one.

    Raises:
        UserError: there is no such preset.
    """
    if name is None:
        return Published()
    known = {path.stem: path for path in files_of("experiment", [CONF])}
    if name not in known:
        raise UserError(no_choice("published", name, known))
    block: Any = OmegaConf.to_container(OmegaConf.load(known[name]).published)
    return Published.from_plain(block)
