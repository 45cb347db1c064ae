"""Sample images: a fixed set of prompts and seeds that shows what a model has learned."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.files import atomic
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.draw import draw
from dreambooth.sampling.grid import grid
from dreambooth.sampling.progress import progress_bar
from dreambooth.sampling.provenance import Provenance, Weights, network_dtypes
from dreambooth.sampling.spec import Sampling
from dreambooth.sampling.store import ImageStore, Item, items_of_prompts

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
        self, model: BaseModel, weights: Weights, folder: Path, name: str
    ) -> list[Image.Image]:
        """Write `folder/name/*.png` with a manifest, and the sheet `folder/name.png`.

        A bar shows the time left of the final ones; training has a bar of its own.

        Args:
            weights: those that the model has now, as each PNG names them.
        """
        items = self.items
        images: list[Image.Image] = []
        with progress_bar("Final samples" if name == FINAL else "", len(items)) as advance:
            for start in range(0, len(items), self.sampling.batch_size):
                part = items[start : start + self.sampling.batch_size]
                prompts, seeds = [i.prompt for i in part], [i.seed for i in part]
                images += draw(model, prompts, seeds, self.sampling)
                advance(len(part))
        shown = Provenance(weights, self.sampling, tuple(network_dtypes(model)))
        ImageStore(folder / name, self.sampling.facts, shown.text).replace(items, images)
        with atomic(folder / f"{name}.png") as temporary:
            grid(images, len(self.seeds), self.prompts).save(temporary, format="PNG")
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
