"""Draw images with a finished run: `python generate.py run=outputs/... 'prompts=["a sks dog"]'`.

conf/generate.yaml explains every option.
"""

from dreambooth.cli.commands import generate
from dreambooth.cli.main import entry

if __name__ == "__main__":
    entry("generate", generate)
