"""What an evaluation draws and scores: its settings and the list of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.data.prompts import SubjectWords, fill
from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.errors import UserError
from dreambooth.evaluation.networks import check_networks
from dreambooth.files import cache_key
from dreambooth.sampling.store import Item, items_of_prompts, slug

PROTOCOL = ("prompts", "images_per_prompt", "class_images", "class_seed")


@dataclass(frozen=True)
class EvaluationSpec:
    """What `conf/evaluation/*.yaml` sets, without the curve; `prompts` names a prompt set.

    Raises:
        UserError: a value that cannot be used; names its key and what it must be.
    """

    name: str
    prompts: str
    images_per_prompt: int
    class_images: int
    class_seed: int
    metrics: tuple[str, ...]
    encoders: str | Sequence[str]
    encoders_dir: str | None

    def __post_init__(self) -> None:
        prompt_set(self.prompts, live=False)
        least = {"images_per_prompt": 1, "class_images": 0, "class_seed": 0}
        for key, low in least.items():
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UserError(
                    f"evaluation.{key}={value} is not usable: it must be a whole number, {low} or "
                    "greater."
                )
        check_networks(self.encoders, self.metrics)
        if "div" in self.metrics and self.images_per_prompt < 2:
            raise UserError(
                "evaluation.images_per_prompt=1 leaves DIV no pair of images: make it 2 or more, "
                "or take div out of evaluation.metrics."
            )

    def items(self, subject: SubjectWords) -> list[Item]:
        """List every image: seeds 0..n-1 of each prompt, then the class prompt's images."""
        templates = prompt_set(self.prompts, subject.live)
        prompts = [fill(template, None, subject.phrase) for template in templates]
        plain = [fill(template, None, subject.class_noun) for template in templates]
        items = items_of_prompts(prompts, plain, range(self.images_per_prompt))
        for seed in range(self.class_seed, self.class_seed + self.class_images):
            file = f"class_{slug(subject.class_prompt)}_seed{seed}.png"
            items.append(Item("class", file, subject.class_prompt, subject.class_prompt, seed))
        return items

    @property
    def protocol(self) -> dict[str, Any]:
        """What is drawn, as JSON values that are the same for every subject.

        `templates` hashes the prompt set's templates, for objects and for live subjects.
        """
        lists = [list(prompt_set(self.prompts, live)) for live in (False, True)]
        own = {key: getattr(self, key) for key in PROTOCOL}
        return {**own, "templates": cache_key(lists=lists)}
