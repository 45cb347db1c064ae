"""Seconds of the main job, here and at an earlier commit, side by side; and whether results differ.

    python benchmarks/main_job.py --before COMMIT [--rounds 1] [OVERRIDE ...]

Both run `train.py subject=dog ppl=true`, alternating, each in a fresh process with an empty cache:
imports, 64 class images, 200 steps, export, samples and scores. The earlier commit is a git
worktree of its own. `cached` is the job without the stage that draws the class images, `cpu` what
the job computes, which depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import commands
from commands import ROOT
from PIL import Image
from safetensors import safe_open


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Check an earlier commit out in `folder`, for the time of the block."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def job(tree: Path, folder: Path, overrides: list[str]) -> dict[str, float]:
    """Run the main job of a tree in a fresh process; return seconds in all and of its stages."""
    arguments = ["subject=dog", "ppl=true", *overrides]
    arguments += [f"hydra.run.dir='{folder / 'run'}'", f"cache_dir='{folder / 'cache'}'"]
    seconds = commands.run("train.py", arguments, folder, tree)
    stages = json.loads((folder / "run/run.json").read_text())["costs"]["stages"]
    of_stages = {name: stage["seconds"] for name, stage in stages.items()}
    return {**seconds, "cached": seconds["whole"] - of_stages["class_images"], **of_stages}


def results(run: Path) -> dict[str, str]:
    """Hash every exported tensor and the pixels of every image, by file."""
    hashes = {}
    for path in sorted(run.glob("model/**/*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in sorted(file.keys()):
                key = f"{path.relative_to(run)}:{name}"
                hashes[key] = hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest()
    for part in ("samples", "evaluation"):
        for path in sorted((run / part).rglob("*.png")):
            with Image.open(path) as image:
                hashes[str(path.relative_to(run))] = hashlib.sha256(image.tobytes()).hexdigest()
    return hashes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", required=True, help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="of the main job")
    args = parser.parse_args()
    seconds: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    made: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as root, worktree(args.before, Path(root) / "tree") as tree:
        for number in range(args.rounds):
            for name, where in (("before", tree), ("after", ROOT)):
                folder = Path(root) / f"{name}-{number}"
                folder.mkdir()
                seconds[name].append(job(where, folder, args.overrides))
                made[name] = results(folder / "run")
    print(f"{'':16}{'before':>10}{'after':>10}{'ratio':>8}   (seconds, medians of {args.rounds})")
    for stage in seconds["before"][0]:
        before, after = (statistics.median(s[stage] for s in seconds[n]) for n in seconds)
        print(f"{stage:16}{before:10.2f}{after:10.2f}{after / max(before, 0.01):8.2f}")
    names = made["before"].keys() | made["after"].keys()
    differ = sorted(n for n in names if made["before"].get(n) != made["after"].get(n))
    print(f"{len(names)} tensors and images, {len(differ)} differ", *differ[:5], sep="\n  ")


if __name__ == "__main__":
    main()
