"""Fine-tune a latent diffusion model on a few photos: `python train.py subject=dog ppl=true`.

`python train.py --help` explains every option.
"""

from dreambooth.cli.interrupt import interruptible

with interruptible():
    from dreambooth.cli.checks import check
    from dreambooth.cli.main import entry
    from dreambooth.cli.objective import check_objective, objective_of


def train(cfg) -> int | float:
    """Do the whole job; return the exit code, or the objective of a run that has one."""
    check(cfg)
    check_objective(cfg.objective, cfg.evaluation.metrics if cfg.evaluation.prompts else ())
    from dreambooth.study.settings import read_runs
    from dreambooth.training.job import run  # torch and diffusers, once the command is checked

    code = run(cfg)
    if code or cfg.objective is None:
        return code
    return objective_of(cfg.objective, read_runs(cfg.output_dir)[0]["metrics"].get("scores", {}))


if __name__ == "__main__":
    entry("train", train)
