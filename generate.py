"""Draw images with a finished run: `python generate.py run=outputs/... 'prompts=["a sks dog"]'`.

`python generate.py --help` explains every option.
"""

from dreambooth.cli.interrupt import importing

with importing():
    from dreambooth.cli.commands import generate
    from dreambooth.cli.main import entry

if __name__ == "__main__":
    entry("generate", generate)
