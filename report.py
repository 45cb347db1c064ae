"""Many runs side by side: `python report.py runs=multirun/...`.

Prints every run with its scores and costs, then each setting's means over subjects;
conf/report.yaml explains the options.
"""

from dreambooth.cli.interrupt import interruptible

with interruptible():
    from dreambooth.cli.main import entry


def report(cfg) -> int:
    """Tables, printed and written as CSV in the runs' folder; returns the exit code."""
    from dreambooth.study.tables import report

    return report(cfg.runs, cfg.other_subjects, cfg.device, cfg.encoders_dir, cfg.cache_dir)


if __name__ == "__main__":
    entry("report", report)
