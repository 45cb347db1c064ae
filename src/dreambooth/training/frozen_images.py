"""Images that a model draws before it trains: class images, and what scores compare with."""

from __future__ import annotations

from pathlib import Path

from dreambooth.data.photos import own_class_images
from dreambooth.model.interface import BaseModel
from dreambooth.sampling.class_images import ClassImages, base_images
from dreambooth.sampling.provenance import Weights
from dreambooth.sampling.spec import Sampling
from dreambooth.training.logs.costs import Costs
from dreambooth.training.spec import TrainSpec


def class_images_of(spec: TrainSpec, model: BaseModel) -> tuple[list[Path], str | None]:
    """Return the user's own class images, or those of the model, which is still frozen.

    Returns:
        the files, and the key of what they were drawn from; None for the user's own.
    """
    prior = spec.prior
    assert prior is not None
    if prior.images_dir is not None:
        return own_class_images(prior.images_dir, prior.num_class_images), None
    paths = _base_images(
        spec,
        model,
        spec.subject.words.class_prompt,
        prior.num_class_images,
        prior.seed,
        prior.sampling,
    )
    return paths, paths[0].parent.name


def _base_images(
    spec: TrainSpec, model: BaseModel, prompt: str, count: int, seed: int, sampling: Sampling
) -> list[Path]:
    """Draw class images of the model, which is still frozen, or take them from the cache."""
    wanted = ClassImages(prompt, count, seed, sampling.batch_size)
    base = Weights(spec.model.name, "base", "", {"base": model.weights_hash()})
    cast = {name: spec.hardware.frozen_dtype for name in sorted(model.masters)}
    return base_images(wanted, lambda: model, base, sampling, spec.cache_dir, cast)


def kernel_images(spec: TrainSpec, model: BaseModel, costs: Costs) -> dict[str, list[Path]]:
    """Draw the images that kernel distances compare with, by prompt; none without them."""
    settings, words = spec.evaluation, spec.subject.words
    prompts = settings.base_prompts(words) if settings else []
    images: dict[str, list[Path]] = {}
    if settings is None or not prompts:
        return images
    with costs.stage("base_images") as places:
        for prompt in prompts:
            count, seed = settings.class_images, settings.class_seed
            images[prompt] = _base_images(spec, model, prompt, count, seed, spec.sampling)
            places += images[prompt]
    return images
