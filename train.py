"""Fine-tune a latent diffusion model on a few photos: `python train.py subject=dog ppl=true`.

`python train.py --help` explains every option.
"""

from dreambooth.cli.interrupt import importing

with importing():
    from dreambooth.cli.commands import train
    from dreambooth.cli.main import entry

if __name__ == "__main__":
    entry("train", train)
