"""Personalise a latent diffusion model from a few photos: `python train.py subject=dog ppl=true`.

`python train.py --help` lists every option; conf/train.yaml explains them.
"""

from dreambooth.checks import check
from dreambooth.config import entry


def train(cfg) -> int:
    """Class images, fine-tuning, export, samples, scores; returns the exit code."""
    check(cfg)
    from dreambooth.run import run  # torch and diffusers only once the command line is right

    return run(cfg)


if __name__ == "__main__":
    entry("train", train)
