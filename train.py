"""Personalise a latent diffusion model from a few photos: `python train.py subject=dog ppl=true`.

`python train.py --help` lists every option; conf/train.yaml explains them.
"""

from dreambooth.cli.checks import check
from dreambooth.cli.main import entry


def train(cfg) -> int:
    """Class images, fine-tuning, export, samples, scores; returns the exit code."""
    check(cfg)
    from dreambooth.cli.processes import same_job
    from dreambooth.cli.specs import train_spec  # torch and diffusers only once the line is right
    from dreambooth.training.job import run

    spec = train_spec(cfg)
    with same_job(cfg.output_dir):
        return run(spec).code


if __name__ == "__main__":
    entry("train", train)
