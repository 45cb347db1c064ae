"""The work of generate.py: draw a grid of pictures, or a film, with runs' or base models."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image

from dreambooth.cli.drawing.cells import Cell, Cells
from dreambooth.cli.drawing.films import draw_film
from dreambooth.files import atomic, cache_key, write_csv
from dreambooth.model.interface import BaseModel
from dreambooth.model.peft_layers import scale_adapters
from dreambooth.sampling.draw import draw, torch_device
from dreambooth.sampling.grid import Labels, captioned_grid, labelled_grid
from dreambooth.sampling.manifest import Item, slug
from dreambooth.sampling.progress import progress_bar
from dreambooth.sampling.provenance import LOADED_DTYPES, Provenance
from dreambooth.sampling.store import ImageStore
from dreambooth.study.finished.base_model import PlainWeights
from dreambooth.study.finished.run_weights import RunWeights
from dreambooth.training.prepare import warn_of_unseen_words


def generate(cfg: DictConfig) -> int:
    """Draw the grid or the film that the command describes into `cfg.output_dir`; return 0.

    Raises:
        UserError: a run, an axis or a value that cannot be used, no such sampler, or no GPU.
    """
    device, folder = torch_device(cfg.device), Path(cfg.output_dir)
    cells = Cells(cfg)
    if cfg.morph.keyframes is not None:
        return draw_film(cells, device, folder)
    sheets = Sheets(cells, folder)
    made = sheets.draw(device)
    for path in sheets.write():
        print(path)
    count = len(sheets.files)
    others = ", the others were there" if made < count else ""
    print(f"{made} of {count} images drawn{others}: {sheets.images}")
    return 0


@dataclass(frozen=True)
class _Job:
    """Pictures that one model draws with one sampler, by file."""

    weights: RunWeights | PlainWeights
    provenance: Provenance
    items: dict[str, Item] = field(default_factory=dict)

    def store(self, folder: Path) -> ImageStore:
        """The store that keeps them."""
        return ImageStore(folder, self.provenance.facts, self.provenance.text)


class Sheets:
    """The pictures of a grid in `folder/images`, and the sheets that show them, one for each z."""

    def __init__(self, cells: Cells, folder: Path) -> None:
        self.cells, self.folder, self.images = cells, folder, folder / "images"
        depth = len(cells.axes["z"].values) if "z" in cells.axes else 1
        self.layers = [cells.layer(z) for z in range(depth)]
        self.names = {run.folder: name for name, run in cells.runs.items()}
        self.files: dict[Cell, str] = {}

    def draw(self, device: str) -> int:
        """Draw the pictures that are missing, loading each model once; return how many were."""
        jobs = self._jobs()
        missing = [len(job.store(self.images).missing([*job.items.values()])) for job in jobs]
        loaded, loaded_weight, model = None, 1.0, None
        with progress_bar("Images", sum(missing)) as advance:
            for job in (job for job, count in zip(jobs, missing, strict=True) if count):
                weight = job.provenance.weights.adapter_weight
                is_merged = isinstance(job.weights, PlainWeights)
                if job.weights is not loaded or (is_merged and weight != loaded_weight):
                    model = None  # before the next one is loaded
                    gc.collect()
                    loaded, loaded_weight = job.weights, weight
                    model = job.weights.load(weight).to(device)
                assert model is not None
                scale_adapters(model, weight)
                self._fill(job, model, advance)
        ImageStore(self.images, {}).keep_only(set(self.files.values()))
        return sum(missing)

    def _fill(self, job: _Job, model: BaseModel, advance: Callable[[int], None]) -> None:
        sampling = job.provenance.sampling

        def drawn(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
            images = draw(model, prompts, seeds, sampling)
            advance(len(images))
            return images

        items = list(job.items.values())
        job.store(self.images).fill(drawn, items, sampling.batch_size, keep_others=True)

    def _jobs(self) -> list[_Job]:
        """Put the cells that one model draws together, and those of equal sampler; name files."""
        models: dict[tuple[Path | None, int | None], list[Cell]] = {}
        for cell in (cell for layer in self.layers for cell in layer):
            models.setdefault((cell.run, cell.step), []).append(cell)
        jobs: list[_Job] = []
        for (run, step), cells in models.items():
            jobs += self._jobs_of(self.cells.weights(self.names[run], step), cells)
        return jobs

    def _jobs_of(self, weights: RunWeights | PlainWeights, cells: list[Cell]) -> list[_Job]:
        source = weights.run if isinstance(weights, RunWeights) else weights.model
        added = " ".join(each.token for each in self.cells.additions.embeddings)
        own = f"{source.words.phrase.removesuffix(source.words.class_noun)} {added}"
        warn_of_unseen_words(source.base["path"], [c.prompt for c in cells], own)
        shown, jobs = weights.describe(), {}
        for cell in cells:
            key = (cell.adapter_weight, cache_key(**cell.sampling.facts))
            if key not in jobs:
                own = replace(shown, adapter_weight=cell.adapter_weight)
                jobs[key] = _Job(weights, Provenance(own, cell.sampling, LOADED_DTYPES))
            digest = cache_key(facts=jobs[key].provenance.facts, prompt=cell.prompt)[:8]
            file = f"{slug(cell.prompt)}_seed{cell.seed}_{digest}.png".lstrip("_")
            jobs[key].items[file] = Item("subject", file, cell.prompt, cell.class_only, cell.seed)
            self.files[cell] = file
        return list(jobs.values())

    def write(self) -> list[Path]:
        """Write `grid.png`, or one for each z, and `grid.csv`; return the sheets."""
        axes, sheets, rows = self.cells.axes, [], []
        for z, layer in enumerate(self.layers):
            title, name = "", "grid"
            if "z" in axes:
                title = self.cells.labels("z")[z]
                name = f"grid_{z:02d}_{slug(title)}"
            images = [self._open(cell) for cell in layer]
            sheets.append(self.folder / f"{name}.png")
            with atomic(sheets[-1]) as temporary:
                self._sheet(images, self._title(title)).save(temporary, format="PNG")
            rows += [self._row(sheets[-1].name, cell) for cell in layer]
        write_csv(self.folder / "grid.csv", rows)
        return sheets

    def _sheet(self, images: list[Image.Image], title: str) -> Image.Image:
        axes, grid = self.cells.axes, self.cells.cfg.grid
        texts = {place: self.cells.labels(place) for place in axes}
        if "y" not in axes and "x" in axes and grid.columns is not None:
            columns = min(grid.columns, len(images))
            return captioned_grid(images, title, texts["x"], columns, grid.cell)
        return labelled_grid(
            images, Labels(title, texts.get("x", [""]), texts.get("y", [""])), grid.cell
        )

    def _title(self, title: str) -> str:
        """Name what all pictures of a sheet share: its z value, and the prompt if that is one."""
        axes = {axis.name for axis in self.cells.axes.values()}
        prompt = self.cells.values("prompt")[0] if "prompt" not in axes else ""
        if prompt and len(self.cells.runs) == 1:
            prompt = self.layers[0][0].prompt
        return " · ".join(text for text in (title, prompt) if text)

    def _open(self, cell: Cell) -> Image.Image:
        with Image.open(self.images / self.files[cell]) as image:
            return image.convert("RGB")

    def _row(self, sheet: str, cell: Cell) -> dict[str, Any]:
        drawn = cell.sampling
        return {
            "sheet": sheet,
            "file": self.files[cell],
            "prompt": cell.prompt,
            "negative_prompt": drawn.negative_prompt,
            "seed": cell.seed,
            "scheduler": drawn.scheduler,
            "num_inference_steps": drawn.num_inference_steps,
            "guidance_scale": drawn.guidance_scale,
            "adapter_weight": cell.adapter_weight,
            "step": cell.step,
            "run": cell.run,
        }
