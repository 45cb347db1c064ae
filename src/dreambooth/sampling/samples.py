"""Sample images: a fixed set of prompts and seeds that shows what a model has learned."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dreambooth.data.photos import load_photo
from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.files import atomic
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.draw import draw
from dreambooth.sampling.grid import before_and_after, captioned_grid, grid
from dreambooth.sampling.manifest import Item, items_of_prompts
from dreambooth.sampling.progress import progress_bar
from dreambooth.sampling.provenance import Provenance, Weights, network_dtypes
from dreambooth.sampling.spec import Sampling
from dreambooth.sampling.store import ImageStore

FINAL = "final"  # the samples that follow training


def step_name(step: int) -> str:
    """Name the samples of an optimizer step: `step-000100`."""
    return f"step-{step:06d}"


@dataclass(frozen=True)
class SampleSet:
    """Every prompt with every seed; `class_only` holds the prompts without the identifier."""

    prompts: tuple[str, ...]
    class_only: tuple[str, ...]
    seeds: tuple[int, ...]
    sampling: Sampling

    @classmethod
    def of_templates(
        cls, templates: Sequence[str], words: SubjectWords, seeds: Sequence[int], sampling: Sampling
    ) -> SampleSet:
        """Fill `{subject}` of each template with the subject's phrase, and with the class noun."""
        prompts = tuple(fill(template, None, words.phrase) for template in templates)
        plain = tuple(fill(template, None, words.class_noun) for template in templates)
        return cls(prompts, plain, tuple(seeds), sampling)

    def draw(
        self,
        model: BaseModel,
        weights: Weights,
        folder: Path,
        name: str,
        photos: Sequence[Path] | None = None,
    ) -> list[Image.Image]:
        """Write `folder/name/*.png` with a manifest, and the sheet `folder/name.png`.

        Args:
            weights: those that the model has now, as each PNG names them.
            photos: the subject's, at the end of a run: the sheet then shows them above, the samples
                before training beside these if `folder` has them, and a bar the time left.
        """
        items = self.items
        with progress_bar("" if photos is None else "Samples", len(items)) as advance:
            prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
            images = draw(model, prompts, seeds, self.sampling, advance)
        shown = Provenance(weights, self.sampling, tuple(network_dtypes(model)))
        ImageStore(folder / name, self.sampling.facts, shown.text).replace(items, images)
        with atomic(folder / f"{name}.png") as temporary:
            self._sheet(images, folder, photos).save(temporary, format="PNG")
        return images

    def _sheet(
        self, images: Sequence[Image.Image], folder: Path, photos: Sequence[Path] | None
    ) -> Image.Image:
        if photos is None:
            if len(self.seeds) == 1:
                return captioned_grid(images, "", self.prompts, min(2, len(images)), 192)
            return grid(images, len(self.seeds), self.prompts)
        shown = [load_photo(path) for path in photos if path.exists()]
        return before_and_after(shown, self.prompts, self._before(folder), images)

    def _before(self, folder: Path) -> list[Image.Image]:
        """Read the samples before training; none if they were not drawn, or drawn otherwise."""
        items, before = self.items, folder / step_name(0)
        if not ImageStore(before, self.sampling.facts).holds(items):
            return []
        images = []
        for item in items:
            with Image.open(before / item.file) as image:
                images.append(image.convert("RGB"))
        return images

    def copy(self, source: Path, folder: Path, name: str) -> bool:
        """Copy what `draw` wrote under `name` in `source`; False if it is not there or differs."""
        if not ImageStore(source / name, self.sampling.facts).holds(self.items):
            return False
        for each in (name, f"{name}.png"):
            copy = shutil.copytree if (source / each).is_dir() else shutil.copyfile
            with atomic(folder / each) as temporary:
                copy(source / each, temporary)
        return True

    @property
    def items(self) -> list[Item]:
        """Every image, in the order in which they are drawn."""
        return items_of_prompts(self.prompts, self.class_only, self.seeds)
