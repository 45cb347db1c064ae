"""What generate.py does: a finished run's model, any prompts, any sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from dreambooth.cli.specs import drawing_of
from dreambooth.data.prompts import fill
from dreambooth.sampling.draw import torch_device
from dreambooth.study.runs import load_model, load_run
from dreambooth.training.stages import Samples, warn_of_unseen_words


def draw(cfg: DictConfig) -> int:
    """Draw every prompt once a seed into `cfg.output_dir`.

    Raises:
        UserError: a folder that is not a finished run, no such sampler, or no GPU.
    """
    run = load_run(cfg.run)
    sampler, sampling = drawing_of(cfg, run)
    sampling = replace(sampling, negative_prompt=cfg.negative_prompt)
    device = torch_device(cfg.device)
    model = load_model(run)
    model.to(device)
    phrase, noun = run.record["subject_phrase"], run.record["subject"]["class_noun"]
    samples = Samples(
        model,
        sampler,
        sampling,
        [fill(prompt, None, phrase) for prompt in cfg.prompts],
        [fill(prompt, None, noun) for prompt in cfg.prompts],
        list(cfg.seeds),
        Path(cfg.output_dir),
    )
    path = run.record["model"]["path"]
    warn_of_unseen_words(path, samples.prompts, phrase.removesuffix(noun))
    samples.draw("images")
    print(f"{len(cfg.prompts) * len(cfg.seeds)} images: {cfg.output_dir}/images.png")
    return 0
