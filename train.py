"""Personalise a latent diffusion model from a few photos: `python train.py subject=dog ppl=true`.

`python train.py --help` lists every option; conf/train.yaml explains them.
"""

from dreambooth.cli.checks import check
from dreambooth.cli.main import entry


def train(cfg) -> int:
    """Class images, fine-tuning, export, samples, scores; returns the exit code."""
    check(cfg)
    from dreambooth.training.job import (
        run,  # torch and diffusers only once the command line is right
    )

    return run(cfg)


if __name__ == "__main__":
    entry("train", train)
