"""Personalise a latent diffusion model from a few photos: `python train.py subject=dog ppl=true`.

`python train.py --help` lists every option; conf/train.yaml explains them.
"""

from dreambooth.cli.commands import train
from dreambooth.cli.main import entry

if __name__ == "__main__":
    entry("train", train)
