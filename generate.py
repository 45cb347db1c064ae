"""Images from a finished run: `python generate.py run=outputs/... 'prompts=["a sks dog"]'`."""

from dreambooth.cli.interrupt import interruptible

with interruptible():
    from dreambooth.cli.checks import check_generate
    from dreambooth.cli.main import entry


def generate(cfg) -> int:
    """PNGs, a manifest and a grid in `cfg.output_dir`; returns the exit code."""
    check_generate(cfg)
    from dreambooth.cli.generate import (
        draw,  # torch and diffusers only once the command line is right
    )

    return draw(cfg)


if __name__ == "__main__":
    entry("generate", generate)
