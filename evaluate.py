"""Score without training: `python evaluate.py run=outputs/... evaluation=paper`.

It also scores any folder of images (`images=DIR photos=DIR`), and the dataset's photos against
themselves (`calibrate=true photos.root=DIR`); `python evaluate.py --help` explains every option.
"""

from dreambooth.cli.interrupt import importing

with importing():
    from dreambooth.cli.commands import evaluate
    from dreambooth.cli.main import entry

if __name__ == "__main__":
    entry("evaluate", evaluate)
