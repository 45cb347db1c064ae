"""Scores without training: `python evaluate.py run=outputs/... evaluation=paper`.

Also any folder of images (`images=DIR photos=DIR`), and the dataset's photos against themselves
(`calibrate=true photos.root=DIR`); conf/evaluate.yaml explains every option.
"""

from dreambooth.cli.interrupt import interruptible

with interruptible():
    from dreambooth.cli.checks import check_evaluate
    from dreambooth.cli.main import entry


def evaluate(cfg) -> int:
    """Scores, printed and written; returns the exit code."""
    check_evaluate(cfg)
    from dreambooth.cli.evaluate import (
        assess,  # torch and diffusers only once the command line is right
    )

    return assess(cfg)


if __name__ == "__main__":
    entry("evaluate", evaluate)
