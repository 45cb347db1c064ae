"""Score a whole benchmark of pretend results: 30 subjects x 25 prompts x 4 crops of their photos.

    python benchmarks/score_tree.py --photos DATASET [--images 4] [--out DIR]

Every image is a random crop of one of the subject's photos, whatever its prompt, so DINO is that of
a copy, and CLIP-T means nothing. `evaluate.py tree=DIR` scores them with the embedded encoders, in
one go, then stopped by SIGINT after half of that time and started again. The two tables must
be equal, byte for byte. Prints seconds and peak memory.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.configuration.subjects import known_subjects
from dreambooth.data.prompts import fill, prompts

SIDE, CROP = 160, 128  # pixels of a photo, and of a crop of it


def pretend(photos: Path, tree: Path, images: int) -> None:
    """Write crops as `<subject>/<prompt>/<k>.png`; the same for the same photos."""
    for name, words in sorted(known_subjects().items()):
        if not (photos / name).is_dir():
            continue
        keyed, own = random.Random(name), []
        for path in sorted((photos / name).glob("*.jpg")):
            photo = Image.open(path)
            photo.draft("RGB", (SIDE, SIDE))  # decodes at a fraction of the size
            own.append(photo.convert("RGB").resize((SIDE, SIDE)))
        for template in prompts("paper", words.live):
            folder = tree / name / fill(template, None, f"sks {words.class_noun}").replace(" ", "_")
            folder.mkdir(parents=True)
            for number in range(images):
                left, top = (keyed.randrange(SIDE - CROP + 1) for _ in range(2))
                crop = keyed.choice(own).crop((left, top, left + CROP, top + CROP))
                crop.save(folder / f"{number}.png", compress_level=1)


def score(
    photos: Path, tree: Path, out: Path, images: int, stop_after: float | None
) -> tuple[float, str]:
    """Run evaluate.py on the tree; return its seconds and what it printed."""
    command = [sys.executable, str(CONF.parent / "evaluate.py"), f"tree='{tree}'"]
    command += [f"photos.root='{photos}'", f"output_dir='{out / 'scores'}'"]
    command += [f"cache_dir='{out / 'cache'}'", "evaluation.encoders=pocket"]
    command += [f"images_per_prompt={images}"]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed, _ = process.communicate(timeout=stop_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate()
    expected = 0 if stop_after is None else 130
    if process.returncode != expected:
        raise SystemExit(f"evaluate.py ended with {process.returncode}, not {expected}")
    return time.monotonic() - start, printed


def main() -> None:
    """Build the tree, score it in one go and in two, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="the DreamBooth dataset")
    parser.add_argument("--images", type=int, default=4, help="per prompt")
    parser.add_argument("--out", type=Path, help="keep the tree and its scores in this folder")
    asked = parser.parse_args()
    # a shell that starts this in the background has its children ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch)
        tree = out / "crops"
        pretend(asked.photos, tree, asked.images)
        count = sum(1 for _ in tree.rglob("*.png"))
        seconds, printed = score(asked.photos, tree, out / "once", asked.images, None)
        print(printed)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        score(asked.photos, tree, out / "twice", asked.images, seconds / 2)
        again, _ = score(asked.photos, tree, out / "twice", asked.images, None)
        for name in ("answer.csv", "subjects.csv", "prompts.csv", "images.csv"):
            one, two = (out / run / "scores" / name for run in ("once", "twice"))
            if one.read_bytes() != two.read_bytes():
                raise SystemExit(f"{name} differs where the scoring was stopped and started again")
        print(f"{count} images of {CROP} px, {len(os.sched_getaffinity(0))} core(s)")
        print(f"in one go: {seconds:.0f} s, peak memory {peak:.2f} GiB")
        print(f"stopped after {seconds / 2:.0f} s, then {again:.0f} s to the same tables")


if __name__ == "__main__":
    main()
