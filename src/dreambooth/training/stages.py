"""The stages of a run as plain functions: subject, class images, fine-tuning, export, samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from PIL import Image

from dreambooth.data.batches import DreamBoothData, KeyedBatches
from dreambooth.data.class_images import class_images, own_class_images
from dreambooth.data.photos import caption, list_photos
from dreambooth.data.subjects import check_name, subject_folder
from dreambooth.diffusion.samplers import check_scheduler, make_scheduler
from dreambooth.errors import UserError
from dreambooth.model.adapters.lora_files import save_lora
from dreambooth.model.snippet import Picture, snippet
from dreambooth.model.stable_diffusion import LatentDiffusion
from dreambooth.model.textual_inversion import TOKEN_FILE, TokenSettings, save_token
from dreambooth.sampling import draw as generate
from dreambooth.training import callbacks, checkpoints
from dreambooth.training.loggers import log_images
from dreambooth.training.module import DreamBooth

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampler:
    """An inference sampler: a diffusers scheduler class and its own options."""

    name: str
    options: dict

    def build(self, model: LatentDiffusion):
        """The scheduler on the model's noise schedule."""
        return make_scheduler(self.name, self.options, dict(model.noise_scheduler.config))

    def check(self, num_inference_steps: int) -> None:
        """Raises UserError where diffusers has no such sampler, or it refuses its values."""
        try:
            check_scheduler(self.name, self.options, num_inference_steps)
        except ValueError as error:
            raise UserError(str(error)) from error


def model_path(path: str) -> str:
    """`pocket` => the weights inside this package; any other path or hub id as it is."""
    if path != "pocket":
        return path
    from dreambooth.pocket.embedded import weights_folder

    return str(weights_folder())


def warn_of_unseen_words(path: str, prompts: Sequence[str], identifier: str | None) -> None:
    """Name the words of a run's prompts that the embedded model never saw, in one warning."""
    if path == "pocket":
        from dreambooth.pocket.embedded import unseen_warning

        if sentence := unseen_warning(prompts, identifier):
            log.warning(sentence)


def find_photos(
    name: str,
    class_noun: str,
    photos: str | None,
    root: str | None,
    rendered: int | None,
    cache_dir: str,
) -> list[Path]:
    """The subject's photos: a given folder, the dataset's copy, rendered ones, or the download.

    Args:
        rendered: how many pictures to render where no folder and no root is given; None fetches
            the dataset instead.
    """
    if photos is None and root is None and rendered is not None:
        from dreambooth.pocket.embedded import rendered_photos

        return list_photos(rendered_photos(class_noun, check_name(name), rendered, cache_dir))
    return list_photos(subject_folder(name, photos, root, cache_dir))


def captions(paths: Sequence[Path], prompt: str) -> list[str]:
    """Each photo's prompt: the `.txt` beside it, else the instance prompt."""
    return [caption(path, prompt) for path in paths]


def prepare_class_images(
    model: LatentDiffusion,
    prompt: str,
    count: int,
    sampler: Sampler,
    sampling: generate.Sampling,
    seed: int,
    images_dir: str | None,
    cache_dir: str,
) -> list[Path]:
    """Class images of the frozen model, or the user's own; call it before anything trains."""
    if images_dir is not None:
        return own_class_images(images_dir, count)
    pipeline = model.pipeline(sampler.build(model))
    facts = {
        "model": model.weights_hash(),
        "prompt": prompt,
        "sampler": sampler.name,
        "options": sampler.options,
        "steps": sampling.num_inference_steps,
        "guidance_scale": sampling.guidance_scale,
        "resolution": sampling.resolution,
        "dtype": str(model.unet.dtype),
        "negative_prompt": sampling.negative_prompt,
    }

    def draw(seeds: Sequence[int]) -> list[Image.Image]:
        return generate.generate(pipeline, [prompt] * len(seeds), seeds, sampling)

    return class_images(draw, facts, count, seed, sampling.batch_size, cache_dir)


@dataclass
class Samples:
    """A fixed set of prompts and seeds, drawn before, during and after training."""

    model: LatentDiffusion
    sampler: Sampler
    sampling: generate.Sampling
    prompts: list[str]
    class_only: list[str]
    seeds: list[int]
    folder: Path

    def draw(self, name: str) -> list[Image.Image]:
        """Write `<folder>/<name>/*.png` with a manifest, and `<folder>/<name>.png`, a grid."""
        pairs = [
            (p, c, s)
            for p, c in zip(self.prompts, self.class_only, strict=True)
            for s in self.seeds
        ]
        prompts, plain, seeds = (list(column) for column in zip(*pairs, strict=True))
        pipeline = self.model.pipeline(self.sampler.build(self.model))
        images = generate.generate(pipeline, prompts, seeds, self.sampling)
        generate.save_images(self.folder / name, images, prompts, plain, seeds)
        sheet = generate.grid(images, len(self.seeds), self.prompts)
        with generate.atomic(self.folder / f"{name}.png") as temporary:
            sheet.save(temporary, format="PNG")
        return images

    def during(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """As an action of a training step."""
        images = self.draw(f"step-{module.steps_before + trainer.global_step:06d}")
        prompts = [p for p in self.prompts for _ in self.seeds]
        log_images(trainer.loggers, "samples", images, prompts)


def starting_point(folder: Path, resume: str | None, facts: dict, max_steps: int) -> Path | None:
    """The checkpoint that a phase goes on from; None begins it.

    Raises:
        UserError: a checkpoint of another configuration, or of more than `max_steps` steps.
    """
    start = checkpoints.find(folder, resume)
    if start is not None:
        checkpoints.refuse_other_facts(start, facts)
        done = checkpoints.read_record(start)["step"]
        if done > max_steps:
            raise UserError(
                f"{start} was trained for {done} steps, more than max_steps={max_steps}: raise "
                "max_steps, choose another output folder, or pass resume=null."
            )
    return start


def fit(
    trainer_factory: partial,
    module: DreamBooth,
    batches: KeyedBatches,
    folder: Path,
    facts: dict,
    start: Path | None,
    max_steps: int,
    accumulate: int,
    every_n_steps: int,
    keep: int,
    extra: list[pl.Callback],
    ema_decay: float | None,
) -> dict:
    """Train one phase from its `starting_point`; the weights stay in `module`.

    Returns:
        `seconds`, `steps`, `images_per_second`, and `stopped` (a signal's number, or None).

    Raises:
        UserError: a loss that is not finite.
    """
    if start is not None:
        log.info("Resuming from %s.", start)
    images = batches.batch_size + (batches.prior_batch_size if batches.prior else 0)
    cost = callbacks.Cost(images * accumulate)
    saving = checkpoints.Checkpoints(folder, every_n_steps, keep)
    stop = callbacks.StopAtStepBoundary()
    average = [callbacks.ExponentialAverage(ema_decay)] if ema_decay is not None else []
    trainer: pl.Trainer = trainer_factory(
        max_steps=max_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        plugins=[checkpoints.VerifiedCheckpointIO(facts)],
        callbacks=[
            stop,
            callbacks.Progress(),
            cost,
            *extra,
            *average,
            callbacks.StopOnNonFinite(10),
            saving,
        ],
        enable_model_summary=False,
        enable_checkpointing=False,  # Lightning's own; ours is a callback
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    # a run shorter than the interval still logs
    trainer.log_every_n_steps = min(trainer.log_every_n_steps, max_steps)
    if start is None or checkpoints.read_record(start)["step"] < max_steps:
        try:
            trainer.fit(module, DreamBoothData(batches), ckpt_path=start, weights_only=True)
        except SystemExit:  # what Lightning makes of a Ctrl-C that came before the first step
            raise KeyboardInterrupt from None
        finally:
            stop.give_back()
    else:
        state = checkpoints.VerifiedCheckpointIO(facts).load_checkpoint(start)
        module.on_load_checkpoint(state)
        for callback in average:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    if average and stop.received is None:
        average[0].apply(module)
    return {
        "seconds": round(cost.seconds, 2),
        "steps": cost.steps,
        "images_per_second": round(cost.steps * cost.images_per_step / max(cost.seconds, 1e-9), 2),
        "stopped": stop.received,
    }


def export(
    model: LatentDiffusion,
    kind: str,
    token: TokenSettings | None,
    folder: Path,
    samples: Samples,
) -> str:
    """Write what was learned in the ecosystem's formats; return a program that draws with it.

    Args:
        kind: `full`, `lora` or `token`.
        samples: the program draws the first of them.
    """
    scheduler, sampling = samples.sampler.build(model), samples.sampling
    exported = folder
    if kind == "full":
        model.export(folder, scheduler)
    elif kind == "lora":
        save_lora(model, folder)
    elif token is None:
        raise UserError("This method learns nothing that could be exported.")
    else:
        exported = folder / TOKEN_FILE
        save_token(model, token, exported)
    picture = Picture(
        samples.prompts[0],
        samples.seeds[0],
        sampling.num_inference_steps,
        sampling.guidance_scale,
        sampling.resolution,
        sampling.negative_prompt,
        device=model.unet.device.type,
    )
    return snippet(model, kind, exported, scheduler, picture)
