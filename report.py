"""Many runs side by side: `python report.py runs=multirun/...`.

Prints every run with its scores and costs, then each setting's means over subjects;
conf/report.yaml explains the options.
"""

from dreambooth.cli.main import entry


def report(cfg) -> int:
    """Tables, printed and written as CSV in the runs' folder; returns the exit code."""
    from dreambooth.cli.specs import report_spec
    from dreambooth.study import tables

    return tables.report(report_spec(cfg))


if __name__ == "__main__":
    entry("report", report)
