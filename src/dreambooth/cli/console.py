"""The console command: `dreambooth train subject=dog` is `python train.py subject=dog`."""

from __future__ import annotations

import os
import signal
import sys

from dreambooth import __version__
from dreambooth.cli.interrupt import importing

with importing():
    from difflib import get_close_matches

    from dreambooth.cli import commands
    from dreambooth.cli.main import entry

COMMANDS = {
    "train": "fine-tune on a subject's photos, export, draw samples, score",
    "generate": "draw images with a finished run or a base model",
    "evaluate": "score a run, a base model or a folder of images",
    "report": "compare many runs in tables",
    "extract": "make a LoRA from a full fine-tune",
    "merge": "merge LoRAs into full weights",
    "tokens": "rank words as identifiers",
    "pretrain": "pretrain the embedded base model",
}
SHOW = "say what drew an image: dreambooth show FILE.png"
HELP = "\n".join(
    (
        "usage: dreambooth COMMAND [KEY=VALUE ...]",
        "",
        *(f"  {name:10}{what}" for name, what in COMMANDS.items()),
        f"  {'show':10}{SHOW}",
        "",
        "`dreambooth COMMAND --help` lists a command's options. Example:",
        "  dreambooth train subject=dog ppl=true",
    )
)


def main() -> None:
    """Run the command that the first argument names; an unknown one exits with code 2."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP)
        return
    if name == "--version":
        print(f"dreambooth {__version__}")
        return
    if name == "show":
        from dreambooth.cli.drawing.show import main as show

        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word
        sys.exit(show(rest))
    if "LOCAL_RANK" in os.environ and "=" in name:
        # Lightning starts the other processes of trainer=ddp with the overrides alone
        name, rest = "train", [name, *rest]
    if name not in COMMANDS:
        names = (*COMMANDS, "show")
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}."
        print(f"error: There is no command {name}: {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [sys.argv[0], *rest]
    entry(name, getattr(commands, name))
