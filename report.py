"""Compare many runs: `python report.py runs=multirun/...`.

Prints every run with its scores and costs, then each setting's means over subjects, the
differences between settings and the published numbers, and writes them as files;
`python report.py --help` explains every option.
"""

from dreambooth.cli.interrupt import importing

with importing():
    from dreambooth.cli.commands import report
    from dreambooth.cli.main import entry

if __name__ == "__main__":
    entry("report", report)
