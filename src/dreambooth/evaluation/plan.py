"""What an evaluation draws and scores: its settings and the list of its images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.errors import UserError
from dreambooth.evaluation.networks import check_networks
from dreambooth.files import cache_key
from dreambooth.sampling.manifest import Item, items_of_prompts, slug

PROTOCOL = ("prompts", "images_per_prompt", "class_images", "class_seed", "other_classes")
FOLDER_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
SEEDS = 2**32  # samplers take seeds below it


@dataclass(frozen=True)
class EvaluationSpec:
    """What `conf/evaluation/*.yaml` sets, without the curve; `prompts` names a prompt set.

    `other_classes` are nouns whose kernel distance says what training did to them; they have images
    only where `metrics` has `kernel`, and the subject's own class is left out.

    Raises:
        UserError: a value that cannot be used; names its key and what it must be.
    """

    name: str
    prompts: str
    images_per_prompt: int
    class_images: int
    class_seed: int
    other_classes: tuple[str, ...]
    metrics: tuple[str, ...]
    encoders: str | Sequence[str]
    encoders_dir: str | None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not FOLDER_NAME.fullmatch(self.name):
            raise UserError(
                f"evaluation.name={self.name} is not usable: it names a folder, so it must be 1 to "
                "64 letters, digits, '.', '_' or '-', of which the first is no dot."
            )
        prompt_set(self.prompts, live=False)
        least = {"images_per_prompt": 1, "class_images": 0, "class_seed": 0}
        for key, low in least.items():
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UserError(
                    f"evaluation.{key}={value} is not usable: it must be a whole number, {low} or "
                    "greater."
                )
        last = self.class_seed + self.class_images - 1
        if max(last, self.images_per_prompt - 1) >= SEEDS:
            raise UserError(
                f"evaluation.class_seed={self.class_seed} is not usable: the class images need the "
                f"seeds {self.class_seed} to {last}, and a seed must be less than 2^32 ({SEEDS})."
            )
        if not all(isinstance(noun, str) and noun.strip() for noun in self.other_classes):
            raise UserError("evaluation.other_classes must be a list of class nouns: [cat,dog].")
        check_networks(self.encoders, self.metrics)
        if "kernel" in self.metrics and self.class_images < 2:
            raise UserError(
                f"evaluation.class_images={self.class_images} is too few for a kernel distance: "
                "make it 2 or more, or take kernel out of evaluation.metrics."
            )
        if "div" in self.metrics and self.images_per_prompt < 2:
            raise UserError(
                "evaluation.images_per_prompt=1 leaves DIV no pair of images: make it 2 or more, "
                "or take div out of evaluation.metrics."
            )

    def items(self, subject: SubjectWords) -> list[Item]:
        """List every image: seeds 0..n-1 of each prompt, the class prompt's, other classes'."""
        templates = prompt_set(self.prompts, subject.live)
        prompts = [fill(template, None, subject.phrase) for template in templates]
        plain = [fill(template, None, subject.class_noun) for template in templates]
        items = items_of_prompts(prompts, plain, range(self.images_per_prompt))
        of_class = [("class", subject.class_prompt)]
        of_class += [("other", prompt) for prompt in self.other_prompts(subject)]
        for kind, prompt in of_class:
            for seed in self.class_seeds:
                file = f"{kind}_{slug(prompt)}_seed{seed}.png"
                items.append(Item(kind, file, prompt, prompt, seed))
        return items

    @property
    def class_seeds(self) -> range:
        """The seeds of the images of every class prompt."""
        return range(self.class_seed, self.class_seed + self.class_images)

    def other_prompts(self, subject: SubjectWords) -> list[str]:
        """List the class prompts of the other classes, "a [class]"; none without `kernel`."""
        nouns = [noun for noun in self.other_classes if noun != subject.class_noun]
        return [f"a {noun}" for noun in dict.fromkeys(nouns)] if "kernel" in self.metrics else []

    def base_prompts(self, subject: SubjectWords) -> list[str]:
        """List the class prompts of which the base model's images are needed."""
        if "kernel" not in self.metrics:
            return []
        return [subject.class_prompt, *self.other_prompts(subject)]

    @property
    def protocol(self) -> dict[str, Any]:
        """What is drawn, as JSON values that are the same for every subject.

        `templates` hashes the prompt set's templates, for objects and for live subjects.
        """
        lists = [list(prompt_set(self.prompts, live)) for live in (False, True)]
        own = {key: getattr(self, key) for key in PROTOCOL}
        own["other_classes"] = list(self.other_classes) if "kernel" in self.metrics else []
        return {**own, "templates": cache_key(lists=lists)}
