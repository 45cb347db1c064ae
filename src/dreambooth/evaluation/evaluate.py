"""Draw what an evaluation needs from a fine-tuned model, and score it against the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dreambooth.data.prompts import prompts as prompt_set
from dreambooth.errors import UserError
from dreambooth.evaluation.plan import Draw, Item, make_images, plan
from dreambooth.evaluation.score import BOOTSTRAP_SEED, Encoders, Scores, check_networks, score
from dreambooth.files import cache_key, file_hash
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.sampling.draw import Sampling, generate
from dreambooth.training.stages import Sampler


@dataclass(frozen=True)
class Settings:
    """What `conf/evaluation/*.yaml` says, without the curve; `prompts` names a prompt set."""

    name: str
    prompts: str
    images_per_prompt: int
    class_images: int
    class_seed: int
    metrics: tuple[str, ...]
    encoders: str | list[str]
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


@dataclass(frozen=True)
class Subject:
    """The words that name the subject in prompts; `live` chooses among the prompt sets."""

    phrase: str
    class_noun: str
    class_prompt: str
    live: bool


def items_of(settings: Settings, subject: Subject) -> list[Item]:
    """Every image that the evaluation scores."""
    return plan(
        prompt_set(settings.prompts, subject.live),
        subject.phrase,
        subject.class_noun,
        subject.class_prompt,
        settings.images_per_prompt,
        settings.class_images,
        settings.class_seed,
    )


def drawing(model: LatentDiffusion, sampler: Sampler, sampling: Sampling) -> Draw:
    """`prompts, seeds => images` of the model as it is at the call."""

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list:
        return generate(model.pipeline(sampler.build(model)), prompts, seeds, sampling)

    return draw


def score_model(
    model: LatentDiffusion,
    export: Path,
    sampler: Sampler,
    sampling: Sampling,
    subject: Subject,
    settings: Settings,
    photos: Sequence[Path],
    encoders: Encoders,
    folder: Path,
) -> tuple[Scores, dict]:
    """Images in `folder`, made where they are missing, and their scores.

    Args:
        export: the run's `model/` folder, whose content is part of the images' provenance.

    Returns:
        the scores, and the record that explains them in metrics.json.
    """
    facts = {
        "export": folder_hash(export),
        "sampler": sampler.name,
        "options": sampler.options,
        "steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "resolution": sampling.resolution,
        "negative_prompt": sampling.negative_prompt,
        "dtypes": [str(part.dtype) for part in (model.unet, model.text_encoder, model.vae)],
    }
    if not (export / "model_index.json").exists():
        facts["base"] = model.weights_hash()  # adapters and tokens lie on it
    items = items_of(settings, subject)
    made = make_images(drawing(model, sampler, sampling), items, folder, facts, sampling.batch_size)
    scores = score(items, [folder / i.file for i in items], photos, encoders, settings.metrics)
    record = {"evaluation": settings.name, "images_made": made, "images": len(items)}
    return scores, record | {
        "protocol": protocol(settings),
        "provenance": facts,
        "subject": asdict(subject),
        **explain(photos, "training photos", encoders),
    }


def protocol(settings: Settings) -> dict:
    """What is drawn, the same for every subject: `templates` is over both of a set's lists."""
    keys = ("prompts", "images_per_prompt", "class_images", "class_seed")
    lists = [list(prompt_set(settings.prompts, live)) for live in (False, True)]
    return {**{key: getattr(settings, key) for key in keys}, "templates": cache_key(lists=lists)}


def explain(photos: Sequence[Path], what: str, encoders: Encoders) -> dict:
    """What every metrics.json says of its references, encoders and intervals.

    `what` names a kind of photos, not a folder: it is equal wherever scores may be averaged.
    """
    return {
        "references": {"what": what, "count": len(photos), "files": [str(p) for p in photos]},
        "encoders": {"family": encoders.family, **encoders.ids},
        "intervals": {"level": 0.95, "method": "percentile bootstrap", "seed": BOOTSTRAP_SEED},
    }


def folder_hash(folder: Path) -> str:
    """16 hex digits over the names and bytes of every file below `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise UserError(f"{folder} holds no model: train the run again or mend the path.")
    return cache_key(files={f.relative_to(folder).as_posix(): file_hash(f) for f in files})
