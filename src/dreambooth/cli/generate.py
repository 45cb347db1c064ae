"""The work of generate.py: draw any prompts with a finished run's model and any sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dreambooth.sampling.draw import torch_device
from dreambooth.sampling.samples import SampleSet
from dreambooth.sampling.spec import Sampling
from dreambooth.study.runs import Run
from dreambooth.training.prepare import warn_of_unseen_words

OVERRIDES = ("num_inference_steps", "guidance_scale", "batch_size")


def sampling_of(cfg: DictConfig, run: Run) -> Sampling:
    """Return a finished run's sampler and settings, but for what the command sets.

    Raises:
        UserError: a sampler that cannot be made.
    """
    changed = {name: cfg[name] for name in OVERRIDES if cfg[name] is not None}
    if "scheduler" in cfg:
        options = OmegaConf.to_container(cfg.scheduler.options, resolve=True)
        changed |= {"scheduler": cfg.scheduler.name, "options": options}
    sampling = replace(run.sampling, **changed)
    sampling.check()
    return sampling


def generate(cfg: DictConfig) -> int:
    """Draw every prompt with every seed into `cfg.output_dir`; return 0.

    Raises:
        UserError: a folder that is not a finished run, no such sampler, or no GPU.
    """
    run = Run.read(cfg.run)
    sampling = replace(sampling_of(cfg, run), negative_prompt=cfg.negative_prompt)
    device = torch_device(cfg.device)
    words = run.words
    samples = SampleSet.of_templates(cfg.prompts, words, cfg.seeds, sampling)
    model = run.load_model().to(device)
    identifier = words.phrase.removesuffix(words.class_noun)
    warn_of_unseen_words(run.record["model"]["path"], samples.prompts, identifier)
    samples.draw(model, Path(cfg.output_dir), "images")
    print(f"{len(cfg.prompts) * len(cfg.seeds)} images: {cfg.output_dir}/images.png")
    return 0
