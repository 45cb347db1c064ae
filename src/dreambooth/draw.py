"""What generate.py does: a finished run's model, any prompts, any sampler."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from dreambooth.data.prompts import fill
from dreambooth.generate import Sampling, torch_device
from dreambooth.job import Sampler, Samples, warn_of_unseen_words
from dreambooth.runs import load_model, load_run


def draw(cfg: DictConfig) -> int:
    """Draw every prompt once a seed into `cfg.output_dir`.

    Raises:
        UserError: a folder that is not a finished run, no such sampler, or no GPU.
    """
    run = load_run(cfg.run)
    own = {**run.config["sampling"], "resolution": run.config["resolution"]}
    names = ("num_inference_steps", "guidance_scale", "batch_size")
    given = {name: cfg[name] for name in names if cfg[name] is not None}
    sampling = Sampling(**{**own, **given}, negative_prompt=cfg.negative_prompt)
    sampler = run.sampler
    if "scheduler" in cfg:
        sampler = Sampler(cfg.scheduler.name, dict(cfg.scheduler.options))
    sampler.check(sampling.num_inference_steps)
    device = torch_device(cfg.device)
    model = load_model(run)
    model.to(device)
    phrase, noun = run.record["subject_phrase"], run.record["subject"]["class_noun"]
    samples = Samples(
        model, sampler, sampling,
        [fill(prompt, None, phrase) for prompt in cfg.prompts],
        [fill(prompt, None, noun) for prompt in cfg.prompts],
        list(cfg.seeds), Path(cfg.output_dir),
    )  # fmt: skip
    path = run.record["model"]["path"]
    warn_of_unseen_words(path, samples.prompts, phrase.removesuffix(noun))
    samples.draw("images")
    print(f"{len(cfg.prompts) * len(cfg.seeds)} images: {cfg.output_dir}/images.png")
    return 0
