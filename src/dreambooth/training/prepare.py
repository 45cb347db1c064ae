"""What comes before the first step: the model, the photos, class images and cached latents."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from dreambooth.data.batches import KeyedBatches
from dreambooth.data.crops import Crops
from dreambooth.data.latents import encode_examples
from dreambooth.data.photos import captions
from dreambooth.data.subjects import (
    describe_copies,
    find_photos,
    require_so_many,
)
from dreambooth.errors import UserError
from dreambooth.evaluation.record import TRAINING, TRAINING_AND_OTHER
from dreambooth.model.adapters.continuation import InitialAdapter
from dreambooth.model.architectures import load_model
from dreambooth.model.casting import cast_network
from dreambooth.model.identifiers import known_warning
from dreambooth.model.interface import BaseModel
from dreambooth.model.offload import set_aside
from dreambooth.model.trainable import TrainableWeights
from dreambooth.pocket.embedded import is_embedded, model_path, unseen_warning
from dreambooth.sampling.class_images import describe_faults
from dreambooth.training.distributed import is_first
from dreambooth.training.frozen_images import class_images_of, kernel_images
from dreambooth.training.logs.costs import Costs
from dreambooth.training.resuming.finished import contents
from dreambooth.training.spec import TrainSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What the phases of a run work with; `photos` are all of the subject's.

    `base` has the base model's images that the scores compare with, by class prompt; `contents` the
    hashes of the files that the run began with (`resuming.finished.contents`).
    """

    spec: TrainSpec
    costs: Costs
    weights: TrainableWeights
    photos: list[Path]
    batches: KeyedBatches
    base: Mapping[str, list[Path]] = field(default_factory=dict)
    contents: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def training_photos(self) -> list[Path]:
        """The photos that the weights train on."""
        return self.photos[: self.spec.subject.use]

    @property
    def references(self) -> str:
        """The kind of photos that scores compare with, in words."""
        all_train = self.training_photos == self.photos
        return TRAINING if all_train else TRAINING_AND_OTHER

    @property
    def model(self) -> BaseModel:
        """The base model whose weights train."""
        return self.weights.model


def prepare(spec: TrainSpec, costs: Costs) -> Prepared:
    """Load the model and the photos, draw the missing class images, encode what is not cached.

    Raises:
        UserError: a model or photos that cannot be used, named.
    """
    base = spec.model
    model = load_model(model_path(base.path), base.revision, base.variant, base.max_sequence_length)
    subject = spec.subject
    photos = find_photos(
        subject.name,
        subject.words.class_noun,
        subject.photos,
        subject.root,
        subject.rendered,
        spec.cache_dir,
    )
    require_so_many(subject.use, len(photos), subject.name)
    _refuse_misfits(spec, model)
    for name in model.frozen_encoders:  # first: in float32, a GPU may not hold them beside the rest
        cast_network(model, name, getattr(torch, spec.hardware.frozen_dtype))
    model.requires_grad_(False).eval()
    if spec.hardware.offload:
        set_aside(model, spec.hardware.device)
    else:
        model.to(spec.hardware.device)
    weights = _weights(spec, model)
    batches = _batches(spec, model, photos[: subject.use], costs)
    compared = kernel_images(spec, model, costs)
    warn_of_unseen_words(base.path, prompts_of(spec), spec.subject.identifier)
    if known := known_warning(model.tokenizer, base.path, spec.subject.identifier):
        log.warning(known)
    if copies := describe_copies(photos[: subject.use]):
        log.warning("%s", copies)
    began_with = contents(photos, spec.config)  # now: a file may be gone when training is done
    return Prepared(spec, costs, weights, photos, batches, compared, began_with)


def _refuse_misfits(spec: TrainSpec, model: BaseModel) -> None:
    """Refuse settings that the model cannot follow.

    Raises:
        UserError: names the setting.
    """
    spec.sampling.require_family(model.process.is_flow)
    model.pipeline(spec.sampling.build(model.process))
    for phase in spec.method.phases:
        kind = phase.parts.text_encoder
        if not model.text_encoders and kind not in ("frozen", "token"):
            raise UserError(
                f"the text encoder of {model.layout.described} stays frozen: leave "
                "train_text_encoder=true out."
            )
    model.check_resolution(spec.sampling.resolution)
    for layout in spec.export.layouts:
        if layout not in model.export_layouts:
            raise UserError(
                f"export.layouts has {layout}, which no tool here writes or reads of "
                f"{model.layout.described}: use {' or '.join(model.export_layouts)}."
            )


def warn_of_unseen_words(path: str, prompts: Sequence[str], identifier: str | None) -> None:
    """Warn once of the words in a run's prompts that the embedded model was not trained on."""
    if is_embedded(path) and (sentence := unseen_warning(prompts, identifier)):
        log.warning(sentence)


def prompts_of(spec: TrainSpec) -> list[str]:
    """List every prompt of a run: for training, samples and scores."""
    words = spec.subject.words
    items = spec.evaluation.items(words) if spec.evaluation else []
    scored = [item.prompt for item in items]
    return [spec.subject.instance_prompt, words.class_prompt, *spec.samples.set.prompts, *scored]


def _weights(spec: TrainSpec, model: BaseModel) -> TrainableWeights:
    """Make the owner of what trains; refuse a token, adapters or names that the model lacks."""
    method, dtype = spec.method, getattr(torch, spec.hardware.frozen_dtype)
    for phase in method.phases:
        phase.parts.check(model, method.adapter)
    initial = _initial_adapter(spec, model)
    quantize = spec.hardware.quantize
    return TrainableWeights(
        model, spec.seed, method.adapter, method.token, dtype, initial, quantize
    )


def _initial_adapter(spec: TrainSpec, model: BaseModel) -> InitialAdapter | None:
    """Read the LoRA that the run begins at; refuse one that its adapters cannot begin at."""
    if spec.init_adapter is None:
        return None
    kinds = [phase.parts.kinds(model).items() for phase in spec.method.phases]
    networks = {network for each in kinds for network, kind in each if kind == "adapter"}
    if spec.method.adapter is None or not networks:
        raise UserError(
            f"init_adapter={spec.init_adapter} needs a method that trains adapters: use "
            "method=lora."
        )
    initial = InitialAdapter(model, spec.init_adapter)
    initial.check(model, networks, spec.method.adapter)
    return initial


def _batches(spec: TrainSpec, model: BaseModel, photos: list[Path], costs: Costs) -> KeyedBatches:
    """Encode every photo, and the images of the prior loss, if these are others."""
    data, words = spec.data, spec.subject.words
    encode = partial(encode_examples, model, seed=spec.seed, cache_dir=spec.cache_dir)
    with costs.stage("latents"):  # before the class images: a bad photo is found at once
        texts = captions(photos, spec.subject.instance_prompt)
        instance, prior = encode(paths=photos, prompts=texts, crops=data.crops), None
    if spec.prior is not None and spec.prior.needs_images:
        with costs.stage("class_images") as places:
            paths, made_from = class_images_of(spec, model)
            places += paths
            if is_first() and (faults := describe_faults(paths)):
                log.warning("%s", faults)
        with costs.stage("class_latents"):
            texts = captions(paths, words.class_prompt)
            crops = Crops(data.crops.resolution)
            prior = encode(paths=paths, prompts=texts, crops=crops, made_from=made_from)
    elif spec.prior is not None:
        prior = replace(instance, prompts=(words.class_prompt,) * len(instance))
    for stage, examples in (("latents", instance), ("class_latents", prior)):
        if examples is not None and stage in costs.stages:
            costs.stages[stage]["bytes"] = examples.mean.nbytes + examples.logvar.nbytes
    return KeyedBatches(
        instance,
        prior,
        data.batch_size,
        data.prior_batch_size,
        model.process.timesteps(data.timesteps, model.image_tokens(*instance.mean.shape[-2:])),
        spec.seed,
        data.noise_offset,
        data.pairing,
    )
