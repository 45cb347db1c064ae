"""The work of generate.py: draw a grid of pictures, or a film, with finished runs' models."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image

from dreambooth.cli.cells import Cell, Cells
from dreambooth.cli.films import draw_film
from dreambooth.files import atomic, cache_key, write_csv
from dreambooth.model.lora import scale_lora
from dreambooth.sampling.draw import draw, torch_device
from dreambooth.sampling.grid import Labels, captioned_grid, labelled_grid
from dreambooth.sampling.provenance import Provenance
from dreambooth.sampling.store import ImageStore, Item, slug
from dreambooth.study.run_weights import RunWeights
from dreambooth.training.prepare import warn_of_unseen_words

DTYPES = ("torch.float32",) * 3  # a model that is loaded is float32


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
    print(f"{made} of {count} images drawn, the others were there: {folder / 'images'}")
    return 0


@dataclass(frozen=True)
class _Group:
    """Cells that one model draws with one sampler, and their files."""

    provenance: Provenance
    items: dict[str, Item]


class Sheets:
    """The pictures of a grid in `folder/images`, and the sheets that show them, one for each z."""

    def __init__(self, cells: Cells, folder: Path) -> None:
        self.cells, self.folder = cells, folder
        axes = cells.axes
        depth = len(axes["z"].values) if "z" in axes else 1
        self.layers = [cells.layer(z) for z in range(depth)]
        self.names = {str(run.folder): name for name, run in cells.runs.items()}
        self.files: dict[Cell, str] = {}

    def draw(self, device: str) -> int:
        """Draw the pictures that are missing, loading each model once; return how many were."""
        made, images = 0, self.folder / "images"
        unique = dict.fromkeys(cell for layer in self.layers for cell in layer)
        ordered = sorted(unique, key=lambda c: (str(c.run), -1 if c.step is None else c.step))
        for (run, step), part in groupby(ordered, key=lambda c: (c.run, c.step)):
            weights = self.cells.weights(self.names[str(run)], step)
            model = None
            for weight, group in self._groups(list(part), weights):
                shown, items = group.provenance, list(group.items.values())
                store = ImageStore(images, shown.facts, shown.text)
                if not store.missing(items):
                    continue
                model = model or weights.load().to(device)
                scale_lora(model, weight)
                made += store.fill(
                    lambda prompts, seeds, m=model, s=shown.sampling: draw(m, prompts, seeds, s),
                    items,
                    shown.sampling.batch_size,
                    keep_others=True,
                    title="Images",
                )
            model = None  # before the next one is loaded
            gc.collect()
        ImageStore(images, {}).keep_only(set(self.files.values()))
        return made

    def _groups(self, cells: list[Cell], weights: RunWeights) -> Iterator[tuple[float, _Group]]:
        """Put cells of equal weights and sampler together, and give each its file."""
        words, record = weights.run.words, weights.run.record
        identifier = words.phrase.removesuffix(words.class_noun)
        warn_of_unseen_words(record["model"]["path"], [c.prompt for c in cells], identifier)
        shown, groups = weights.describe(), {}
        for cell in cells:
            key = (cell.adapter_weight, cache_key(**cell.sampling.facts))
            if key not in groups:
                own = replace(shown, adapter_weight=cell.adapter_weight)
                groups[key] = _Group(Provenance(own, cell.sampling, DTYPES), {})
            facts = groups[key].provenance.facts
            digest = cache_key(facts=facts, prompt=cell.prompt)[:8]
            file = f"{slug(cell.prompt)}_seed{cell.seed}_{digest}.png".lstrip("_")
            groups[key].items[file] = Item("subject", file, cell.prompt, cell.class_only, cell.seed)
            self.files[cell] = file
        for (weight, _), group in groups.items():
            yield weight, group

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
        with Image.open(self.folder / "images" / self.files[cell]) as image:
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
